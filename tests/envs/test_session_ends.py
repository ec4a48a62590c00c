"""What ends an episode, whose failure a failure is, and what it is scored."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from turnwise.envs.env import Env
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec, register
from turnwise.envs.serving.client import RemoteEnvs, connect
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.session import EpisodeFailed, Session
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import milestone, tool
from turnwise.envs.types import (
    AgentView,
    EndReason,
    EpisodeLimits,
    FinishAction,
    InvalidAction,
    Model,
    RewardTerm,
    Task,
    TaskPublic,
    TextAction,
    call,
    text,
)


class LeaverOptions(Model):
    at: str = ""


@register
class Leaver(Env):
    """Ends the process that it is in, or would."""

    name = "test/leaver"
    Options = LeaverOptions
    options: LeaverOptions

    def _go(self, place: str) -> None:
        if self.options.at == place:
            sys.exit(3)

    def tasks(self, split: str) -> TaskSet:
        self._go("tasks")
        return seeds(split, 1)

    async def reset(self, task: Task) -> AgentView:
        self._go("reset")
        return text("go")

    @tool
    async def act(self) -> str:
        """Act."""
        await asyncio.sleep(0)
        self._go("tool")
        return "ok"

    @milestone
    def here(self) -> bool:
        self._go("milestone")
        return True

    async def grade(self) -> float:
        self._go("grade")
        return 1.0


@register
class Clock(Env):
    """Waits for ever, without a sandbox, so that no time passes but what it waits."""

    name = "test/clock"

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 1)

    async def reset(self, task: Task) -> AgentView:
        self.ticks = 0
        self.milestone_hangs = False
        return text("tick")

    @tool
    def tick(self) -> str:
        """Count."""
        self.ticks += 1
        return "ok"

    @tool
    async def hang(self) -> str:
        """Never returns."""
        await asyncio.Event().wait()
        return ""

    async def said(self, words: str) -> None:
        await asyncio.Event().wait()

    @milestone
    async def done(self) -> bool:
        if self.milestone_hangs:
            await asyncio.Event().wait()
        return False

    async def grade(self) -> float:
        return float(self.ticks)


async def clock(**limits: float) -> tuple[Clock, Session]:
    """A session with limits of its own, reset."""
    env = Clock()
    task = env.task_set("train")[0].model_copy(
        update={"public": TaskPublic(limits=EpisodeLimits.model_validate(limits))}
    )
    session = Session(env, task)
    await session.reset()
    return env, session


async def ended(envs: LocalEnvs, fault: str, *actions: Any) -> Session:
    """The pad after some actions."""
    async with envs.open(f"test/pad?fault={fault}") as env:
        await env.reset()
        for action in actions:
            step = await env.step(action)
    assert step.record is not None
    assert (step.end, step.record.end, step.record.score) == (env.end, env.end, env.score)
    if step.done:
        assert step.record.terms[0] == RewardTerm(channel="outcome", level=0, value=env.score)
    env.error = step.record.error  # type: ignore[attr-defined]
    return env


WRITE = call("write", line="a")


@pytest.mark.parametrize(
    ("fault", "actions", "end", "score", "error"),
    [
        ("", [WRITE, call("hand_in")], EndReason.SUBMITTED, 1.0, ""),
        ("", [FinishAction()], EndReason.SUBMITTED, 0.0, ""),
        ("", [WRITE] * 6, EndReason.TURN_LIMIT, 1.0, ""),
        ("", [WRITE, call("flood")], EndReason.AGENT_FAULT, 0.0, "LimitExceeded"),
        ("big", [WRITE, FinishAction()], EndReason.AGENT_FAULT, 0.0, "LimitExceeded"),
        ("", [WRITE, call("lose")], EndReason.INFRA_ERROR, None, "SandboxDied"),
        ("lost", [WRITE, FinishAction()], EndReason.INFRA_ERROR, None, "SandboxDied"),
        ("", [WRITE, call("missing")], EndReason.ENV_ERROR, None, "FileNotFoundError"),
        ("", [WRITE, call("late")], EndReason.ENV_ERROR, None, "TimeoutError: a server did not answer"),
        ("milestone", [WRITE], EndReason.ENV_ERROR, None, "ZeroDivisionError: in a milestone"),
        ("grade", [WRITE, FinishAction()], EndReason.ENV_ERROR, None, "KeyError"),
        ("score", [WRITE, FinishAction()], EndReason.ENV_ERROR, None, "returned 2.0, not within"),
    ],
)
async def test_an_end_has_a_reason_and_a_score_only_where_the_agent_earned_it(
    envs: LocalEnvs, fault: str, actions: list[Any], end: EndReason, score: float | None, error: str
) -> None:
    env = await ended(envs, fault, *actions)
    assert (env.end, env.score) == (end, score)
    assert error in env.error  # type: ignore[attr-defined]
    assert bool(error) == bool(env.error)  # type: ignore[attr-defined]


async def test_a_slow_tool_is_an_error_shown_to_the_agent() -> None:
    _, session = await clock(tool_seconds=0.02)
    for action, named in ((call("hang"), "hang"), (TextAction(text="well?"), "the answer")):
        step = await session.step(action)
        assert step.view.text == f"error: {named} took longer than 0.02 s"
        assert step.record is not None
        assert (step.record.valid, step.end) == (False, None)


@pytest.mark.parametrize("action", [call("hang"), TextAction(text="well?")])
async def test_the_episodes_time_ends_it_within_a_tool(action: Any) -> None:
    _, session = await clock(seconds=0.02)
    step = await session.step(action)
    assert step.end is EndReason.TIME_LIMIT
    assert step.record is not None
    assert (step.record.valid, step.record.score) == (False, 0.0)


@pytest.mark.parametrize("action", [call("tick"), FinishAction(), InvalidAction(text="", error="empty")])
async def test_after_the_episodes_time_nothing_is_carried_out(action: Any) -> None:
    env, session = await clock(seconds=0.02)
    await asyncio.sleep(0.03)
    step = await session.step(action)
    assert (step.end, step.view.text) == (EndReason.TIME_LIMIT, "error: out of time")
    assert env.ticks == 0


async def test_a_milestone_that_never_returns_is_the_environments_failure() -> None:
    env, session = await clock(tool_seconds=0.02)
    env.milestone_hangs = True
    assert (await session.step(call("tick"))).end is EndReason.ENV_ERROR
    assert session.score is None


async def test_a_failed_start_is_the_environments_or_the_machines(envs: LocalEnvs) -> None:
    async with envs.open("test/pad?fault=reset") as env:
        with pytest.raises(EpisodeFailed, match="LimitExceeded") as failed:
            await env.reset()
        assert failed.value.end is EndReason.ENV_ERROR  # the agent had not acted
        with pytest.raises(RuntimeError, match="ended"):
            await env.step(WRITE)
    pad = EnvSpec.parse("test/pad").make()
    lonely = Session(pad, pad.task_set("train")[0])
    with pytest.raises(EpisodeFailed, match="needs a sandbox") as failed:
        await lonely.reset()
    assert failed.value.end is EndReason.INFRA_ERROR


async def leave(envs: LocalEnvs | RemoteEnvs, at: str) -> None:
    """An episode whose environment calls ``sys.exit`` somewhere: the failure is the environment's."""
    async with envs.open(f"test/leaver?at={at}") as env:
        if at == "reset":
            with pytest.raises(EpisodeFailed, match="SystemExit: 3") as failed:
                await env.reset()
            assert failed.value.end is EndReason.ENV_ERROR
            return
        await env.reset()
        step = await env.step(FinishAction() if at == "grade" else call("act"))
        assert step.record is not None
        assert (step.end, step.record.score) == (EndReason.ENV_ERROR, None)
        assert step.record.error == "SystemExit: 3"


@pytest.mark.parametrize("at", ["reset", "tool", "milestone", "grade"])
async def test_an_environment_that_exits_ends_its_own_episode(envs: LocalEnvs, at: str) -> None:
    await leave(envs, at)


async def test_an_environment_that_exits_leaves_its_server_and_other_sessions_alone() -> None:
    async with (
        EnvServer(["test/leaver"], port=0) as server,
        connect(server.url) as envs,
        envs.open("test/leaver") as other,
    ):
        await other.reset()
        for at in ("reset", "tool", "milestone", "grade"):
            await leave(envs, at)
        with pytest.raises(ServerFailed, match="the server failed"):
            async with envs.open("test/leaver?at=tasks"):
                pass
        assert (await other.step(call("act"))).view.text == "ok"
