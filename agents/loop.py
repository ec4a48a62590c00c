"""The episode loop: one policy, one environment, one episode, to its end.

    view = reset
    until the end: decision = act(view); step = step(decision.action); view = step.view

Everything else here is what has to be true whatever happens in between: the tokens of every turn are
kept as they were, an end has one reason, and a failure of the machine or of the environment's code
leaves an episode without a score, to be retried or excluded by whoever asked for it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Protocol

from turnwise.agents.policy import Actor, EpisodeKey, EpisodeSession, Policy
from turnwise.agents.trajectory import Decision, Episode, Turn
from turnwise.envs.registry import EnvSpec
from turnwise.envs.session import EpisodeFailed
from turnwise.envs.types import AgentView, EndReason, Step, Task, text
from turnwise.sandbox.contract import SandboxError


class Envs(Protocol):
    """Where sessions come from: this process or a server."""

    def open(self, env: str | EnvSpec, *, task: Task) -> AbstractAsyncContextManager[EpisodeSession]:
        """A session of one task, closed with the block."""
        ...


class EpisodeRecorder:
    """Collects what happened; every turn knows the one before it."""

    def __init__(self, key: EpisodeKey, task: Task, policy: Policy) -> None:
        self.key, self.task, self.policy = key, task, policy
        self.opening: AgentView = text("")
        self.turns: list[Turn] = []
        self.started = time.perf_counter()

    def add(self, decision: Decision, step: Step, seconds: float) -> None:
        """One turn."""
        assert step.record is not None
        index = len(self.turns)
        self.turns.append(
            Turn(
                turn_id=f"{self.key.episode_id}.{index}",
                parent_id=f"{self.key.episode_id}.{index - 1}" if index else None,
                episode_id=self.key.episode_id,
                group_id=self.key.group_id,
                index=index,
                spans=decision.spans,
                action=decision.action,
                record=step.record,
                observation=step.view,
                text=decision.text,
                seconds=seconds,
            )
        )

    def finish(self, end: EndReason, score: float | None, error: str = "") -> Episode:
        """The episode as it is now."""
        return Episode(
            episode_id=self.key.episode_id,
            group_id=self.key.group_id,
            task=self.task.ref,
            policy=self.policy.name,
            opening=self.opening,
            turns=tuple(self.turns),
            end=end,
            score=score,
            sampling=self.policy.sampling,
            error=error,
            seconds=time.perf_counter() - self.started,
        )


async def run_episode(envs: Envs, env: EnvSpec, task: Task, policy: Policy, key: EpisodeKey) -> Episode:
    """Run one episode. The result's ``end`` says whose doing it was; nothing of the environment's or
    the machine's failures is raised. What the policy raises is a fault of ours and propagates."""
    recorder = EpisodeRecorder(key, task, policy)
    try:
        async with envs.open(env, task=task) as session, policy.open(key, session) as actor:
            # Every episode of a batch opens before any acts: a deterministic engine waits for those it knows.
            await asyncio.sleep(0)
            recorder.opening = await session.reset()
            await _play(session, actor, recorder)
            error = recorder.turns[-1].record.error if recorder.turns else ""
            assert session.end is not None
            return recorder.finish(session.end, session.score, error)
    except EpisodeFailed as failure:
        return recorder.finish(failure.end, None, str(failure))
    except SandboxError as failure:  # of the machine, or of the way to it
        return recorder.finish(EndReason.INFRA_ERROR, None, str(failure))


async def _play(session: EpisodeSession, actor: Actor, recorder: EpisodeRecorder) -> None:
    """Turn after turn, until the session has ended."""
    view = recorder.opening
    while session.end is None:
        started = time.perf_counter()
        decision = await actor.act(view)
        seconds = time.perf_counter() - started
        if decision.context_full and not decision.spans:
            await session.conclude(EndReason.CONTEXT_LIMIT)
            return
        step = await session.step(decision.action)
        recorder.add(decision, step, seconds)
        if decision.context_full and session.end is None:
            await session.conclude(EndReason.CONTEXT_LIMIT)
        view = step.view


async def run_with_retries(
    envs: Envs, env: EnvSpec, task: Task, policy: Policy, key: EpisodeKey, *, retries: int
) -> Episode:
    """Run an episode again, in another sandbox, while the machine fails it; a bug in the environment
    is not tried again."""
    attempt = 0
    while True:
        episode = await run_episode(envs, env, task, policy, key)
        if episode.end is not EndReason.INFRA_ERROR or attempt == retries:
            return replace(episode, retries=attempt)
        attempt += 1
