"""The audit of an environment: does its score say what it should, whoever comes?

The oracle has to score in full on every task, and doing nothing nothing. Every cheat that the environment
lists is carried out as an agent would and graded as any other episode; it has to score nothing. Residue,
what no grader of the kind can refuse, is scored too and listed apart.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from turnwise.agents.loop import Envs, run_with_retries
from turnwise.agents.policy import Actor, EpisodeKey, EpisodeSession, Policy
from turnwise.agents.rollout import Listener
from turnwise.agents.scripted import scripted
from turnwise.agents.trajectory import Decision, Episode, Sampling
from turnwise.envs.cheat import Cheat
from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.envs.session import Session
from turnwise.envs.types import AgentView, EndReason, Model, Task
from turnwise.sandbox.contract import LimitExceeded


class AgentScore(Model):
    """An agent's score on the audited tasks."""

    score: float | None
    """The mean; None where an episode could not be graded."""
    tasks: dict[str, float | None]
    """By task."""


class CheatScore(Model):
    """What a cheat got."""

    name: str
    group: str
    task: str
    score: float | None
    """None where the episode could not be graded."""
    end: EndReason
    detail: str
    """Why, as far as the grading says."""


class Audit(Model):
    """The result; ``sound`` where nothing scored that should not."""

    env: str
    split: str
    task_hash: str
    oracle: AgentScore
    noop: AgentScore
    cheats: tuple[CheatScore, ...]
    residue: tuple[CheatScore, ...]
    """What cannot be refused in principle."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong, a line each."""
        lines = [f"the oracle scores {_told(s)} on {t}" for t, s in self.oracle.tasks.items() if s != 1.0]
        lines += [f"doing nothing scores {_told(s)} on {t}" for t, s in self.noop.tasks.items() if s != 0.0]
        lines += [f"{c.name} scores {_told(c.score)} on {c.task}" for c in self.cheats if c.score != 0.0]
        return tuple(lines)

    @property
    def sound(self) -> bool:
        """The oracle scores in full, and nothing else at all."""
        return not self.faults


def _told(score: float | None) -> str:
    return "nothing that can be graded" if score is None else f"{score:g}"


async def audit(
    env: str | EnvSpec,
    *,
    split: str = "test",
    tasks: int | None = None,
    every: bool = False,
    backend: str | None = None,
    concurrency: int = 4,
    listener: Listener | None = None,
) -> Audit:
    """Audit the first ``tasks`` tasks of a split (None: all, up to 16).

    Each cheat is tried on one of them in turn, or on ``every`` one. Raises ``UsageError`` for an unknown
    environment or split, and for one without an oracle.
    """
    spec = EnvSpec.parse(env)
    instance = spec.make()
    if not instance.has_oracle():
        raise UsageError(f"environment {spec.name}: it has no oracle, which the audit needs")
    task_set = instance.task_set(split)
    count = min(len(task_set), 16) if tasks is None else tasks
    if not 1 <= count <= len(task_set):
        raise UsageError(f"tasks={count}: split {split!r} of {spec} has {len(task_set)}")
    panel = list(task_set[:count])
    chosen = [
        (cheat, task)
        for place, cheat in enumerate(instance.cheats())
        for task in (panel if every else [panel[place % count]])
    ]
    agents = scripted("scripted:oracle"), scripted("scripted:noop")
    plan: list[Entry] = [(agent, task) for agent in agents for task in panel]
    plan += [(CheatPolicy(cheat), task) for cheat, task in chosen]
    async with LocalEnvs(backend=backend, capacity=concurrency) as envs:
        episodes = await _run(envs, spec, plan, concurrency, listener)
    tried = list(zip((cheat for cheat, _ in chosen), episodes[2 * count :], strict=True))
    return Audit(
        env=str(spec),
        split=split,
        task_hash=task_set.hash,
        oracle=_of_agent(episodes[:count]),
        noop=_of_agent(episodes[count : 2 * count]),
        cheats=tuple(_of_cheat(cheat, episode) for cheat, episode in tried if not cheat.residue),
        residue=tuple(_of_cheat(cheat, episode) for cheat, episode in tried if cheat.residue),
    )


Entry = tuple[Policy, Task]
"""An episode to be run."""


async def _run(
    envs: Envs, spec: EnvSpec, plan: Sequence[Entry], concurrency: int, listener: Listener | None
) -> list[Episode]:
    room = asyncio.Semaphore(concurrency)

    async def one(place: int, policy: Policy, task: Task) -> Episode:
        key = EpisodeKey(f"audit/{place}", f"audit/{place}", seed=place, order=place)
        async with room:
            episode = await run_with_retries(envs, spec, task, policy, key, retries=1)
        if listener is not None:
            listener(episode)
        return episode

    async with asyncio.TaskGroup() as group:
        started = [group.create_task(one(place, *entry)) for place, entry in enumerate(plan)]
    return [task.result() for task in started]


def _of_agent(episodes: Sequence[Episode]) -> AgentScore:
    by_task = {episode.task.id: episode.score for episode in episodes}
    scores = [score for score in by_task.values() if score is not None]
    mean = sum(scores) / len(scores) if len(scores) == len(by_task) else None
    return AgentScore(score=mean, tasks=by_task)


def _of_cheat(cheat: Cheat[Any], episode: Episode) -> CheatScore:
    grade = episode.turns[-1].record.grade if episode.turns else None
    said = [] if grade is None else [grade.reason, *grade.notes]
    return CheatScore(
        name=cheat.name,
        group=cheat.group,
        task=episode.task.id,
        score=episode.score,
        end=episode.end,
        detail=episode.error or "; ".join(filter(None, said)),
    )


@dataclass(frozen=True, slots=True)
class CheatPolicy:
    """Carries out a cheat and then ends the episode."""

    cheat: Cheat[Any]
    sampling: Sampling | None = None

    @property
    def name(self) -> str:
        """As episodes have it."""
        return f"cheat:{self.cheat.name}"

    @asynccontextmanager
    async def open(self, key: EpisodeKey, session: EpisodeSession) -> AsyncIterator[Actor]:
        """An actor on the environment from inside."""
        assert isinstance(session, Session)
        yield _Cheater(self.cheat, session)


@dataclass(slots=True)
class _Cheater:
    cheat: Cheat[Any]
    session: Session

    async def act(self, view: AgentView) -> Decision:
        with contextlib.suppress(LimitExceeded, OSError):  # the sandbox stopped it; what was done is graded
            await self.cheat.apply(self.session.env)
        return Decision(action=self.cheat.ending, text=self.cheat.name)
