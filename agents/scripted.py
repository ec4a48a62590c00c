"""Policies without a network: the oracle, the one that does nothing, one at random, an imperfect one.

They ship with the package because they are what an environment is checked with: the oracle shows that
it can be solved, ``noop`` that it is not solved by itself, and the imperfect one writes the
demonstrations a small model is warm-started from.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from turnwise.agents.policy import Actor, EpisodeKey, EpisodeSession
from turnwise.agents.trajectory import Decision, Sampling
from turnwise.envs.env import Env, random_call
from turnwise.envs.errors import UsageError, unknown
from turnwise.envs.session import Session
from turnwise.envs.types import Action, AgentView, FinishAction, ToolSpec


@dataclass(slots=True)
class ScriptedActor:
    """Asks its script what to do, every turn."""

    policy: ScriptedPolicy
    env: Env | None
    """The environment from inside; None where it is on a server."""
    rng: random.Random
    tools: tuple[ToolSpec, ...] = ()

    async def act(self, view: AgentView) -> Decision:
        """The script's next action."""
        self.tools = view.tools or self.tools
        action = await self._choose()
        return Decision(action=action, text=describe_action(action))

    async def _choose(self) -> Action:
        if not self.policy.acts:
            return FinishAction()
        best = self.rng.random() < self.policy.oracle
        if self.env is None:
            return random_call(self.tools, self.rng)
        if not best:
            return self.env.random_action(self.rng)
        action = await self.env.oracle()
        return FinishAction() if action is None else action


@dataclass(frozen=True, slots=True)
class ScriptedPolicy:
    """A policy that knows the environment from inside, which no learner may; on a server's it can only do
    nothing, or call at random what tools there are."""

    name: str
    oracle: float
    """How often it takes the best action; otherwise a random one."""
    acts: bool = True
    """False: it declares itself done at once."""
    sampling: Sampling | None = None

    @asynccontextmanager
    async def open(self, key: EpisodeKey, session: EpisodeSession) -> AsyncIterator[Actor]:
        """An actor with the episode's own stream of randomness. Raises ``UsageError`` for an oracle that is
        out of reach."""
        env = session.env if isinstance(session, Session) else None
        if self.oracle > 0 and env is None:
            raise UsageError(
                f"{self.name} needs the environment in this process, not on a server; use scripted:random"
            )
        if self.oracle > 0 and env is not None and not env.has_oracle():
            raise UsageError(f"environment {env.name} has no oracle; use scripted:random")
        yield ScriptedActor(self, env, random.Random(key.seed))


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
