"""Policies without a network: the oracle, the one that does nothing, one at random, an imperfect one.

They ship with the package because they are what an environment is checked with: the oracle shows that
it can be solved, ``noop`` that it is not solved by itself, and the imperfect one writes the
demonstrations a small model is warm-started from.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from turnwise.agents.policy import Actor, EpisodeKey
from turnwise.agents.trajectory import Decision, Sampling
from turnwise.envs.errors import UsageError, unknown
from turnwise.envs.session import Session
from turnwise.envs.types import Action, AgentView, FinishAction

Chooser = Callable[[Session, random.Random], "Action | None"]


@dataclass(frozen=True, slots=True)
class ScriptedActor:
    """Asks its script what to do, every turn."""

    policy: ScriptedPolicy
    session: Session
    rng: random.Random

    async def act(self, view: AgentView) -> Decision:
        """The script's next action."""
        action = await self.policy.choose(self.session, self.rng)
        return Decision(action=action, text=describe_action(action))


@dataclass(frozen=True, slots=True)
class ScriptedPolicy:
    """A policy that knows the environment from inside, which no learner may."""

    name: str
    oracle: float
    """How often it takes the best action; otherwise a random one."""
    acts: bool = True
    """False: it declares itself done at once."""
    sampling: Sampling | None = None

    @asynccontextmanager
    async def open(self, key: EpisodeKey, session: Session) -> AsyncIterator[Actor]:
        """An actor with the episode's own stream of randomness."""
        if self.oracle > 0 and not session.env.has_oracle():
            raise UsageError(f"environment {session.env.name} has no oracle; use scripted:random")
        yield ScriptedActor(self, session, random.Random(key.seed))

    async def choose(self, session: Session, rng: random.Random) -> Action:
        """The best action, a random one, or the end."""
        if not self.acts:
            return FinishAction()
        if rng.random() < self.oracle:
            action = await session.env.oracle()
            return FinishAction() if action is None else action
        return session.env.random_action(rng)


SCRIPTED = {
    "scripted:oracle": ScriptedPolicy("scripted:oracle", oracle=1.0),
    "scripted:noop": ScriptedPolicy("scripted:noop", oracle=0.0, acts=False),
    "scripted:random": ScriptedPolicy("scripted:random", oracle=0.0),
}


def imperfect(oracle: float) -> ScriptedPolicy:
    """A demonstrator that takes the best action with probability ``oracle``, else a random one."""
    return ScriptedPolicy(f"scripted:imperfect-{oracle:g}", oracle=oracle)


def scripted(name: str) -> ScriptedPolicy:
    """The scripted policy of a name. Raises ``UsageError`` naming the nearest match."""
    if name not in SCRIPTED:
        raise unknown("policy", name, list(SCRIPTED))
    return SCRIPTED[name]


def describe_action(action: Action) -> str:
    """An action as a person would write it."""
    match action.kind:
        case "calls":
            return "; ".join(
                f"{c.name}({', '.join(f'{k}={v!r}' for k, v in c.arguments.items())})" for c in action.calls
            )
        case "finish":
            return f"finish {action.answer}".strip()
        case _:
            return action.text
