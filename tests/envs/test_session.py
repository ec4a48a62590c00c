"""One episode: the example of the design, what a turn shows and records, misuse, forks, sandboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from turnwise.envs.env import Env
from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import register
from turnwise.envs.session import Session
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import milestone, tool
from turnwise.envs.types import (
    AgentView,
    CallAction,
    EndReason,
    EpisodeLimits,
    FinishAction,
    ImageBlock,
    InvalidAction,
    RewardTerm,
    Task,
    TextAction,
    ToolCall,
    call,
    text,
)
from turnwise.sandbox.contract import SandboxDied


@register
class Guess(Env):
    name = "demo/guess"

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 1000)

    async def reset(self, task: Task) -> AgentView:
        self.n, self.last = task.rng.randint(1, 9), 0
        return text("Guess 1-9")

    @tool
    async def guess(self, n: int) -> str:
        self.last = n
        return "yes" if n == self.n else "no"

    @milestone
    def warm(self) -> bool:
        return abs(self.last - self.n) <= 1

    async def grade(self) -> float:
        return float(self.last == self.n)


WRITE = call("write", line="a")


# ---------------------------------------------------------------- the example of the design


async def test_the_guess_example() -> None:
    async with LocalEnvs() as envs, envs.open("demo/guess", seed=3) as env:
        view = await env.reset()
        assert view.text == "Guess 1-9"
        assert [spec.name for spec in view.tools] == ["guess"]
        a, b = await env.fork(2)
        n = env.env.n  # type: ignore[attr-defined]
        right = await a.step(call("guess", n=n))
        wrong = await b.step(call("guess", n=n % 9 + 1 if n < 9 else 1))
        assert (right.view.text, wrong.view.text) == ("yes", "no")
        assert right.record is not None
        assert right.record.milestones == ("warm",)
        assert not right.done
        assert (await a.step(FinishAction())).record.score == 1.0  # type: ignore[union-attr]
        assert (await b.step(FinishAction())).record.score == 0.0  # type: ignore[union-attr]


async def test_a_seed_names_the_same_task_every_time() -> None:
    async with LocalEnvs() as envs:
        numbers = []
        for seed in (3, 3, 1003, 4):
            async with envs.open("demo/guess", seed=seed) as env:
                await env.reset()
                numbers.append((env.task.ref.seed, env.env.n))  # type: ignore[attr-defined]
    assert numbers[0] == numbers[1] == numbers[2] != numbers[3]


async def test_a_tasks_randomness_starts_anew_in_every_episode() -> None:
    task = Guess().task_set("train")[0]
    task.rng.random()
    drawn = set()
    async with LocalEnvs() as envs:
        for _ in range(2):
            async with envs.open("demo/guess", task=task) as env:
                await env.reset()
                drawn.add(env.task.rng.random())
    assert len(drawn) == 1


# ---------------------------------------------------------------- a turn


async def test_a_turn_is_recorded_for_the_trainer(envs: LocalEnvs) -> None:
    async with envs.open("test/pad") as env:
        await env.reset()
        refused = (await env.step(call("refuse"))).record
        written = (await env.step(call("write", line="a"))).record
        more = (await env.step(call("write", line="b"))).record
    assert refused is not None
    assert written is not None
    assert more is not None
    assert (refused.turn, refused.valid, refused.milestones) == (0, False, ())
    assert refused.terms == (
        RewardTerm(channel="validity", level=1, value=0.0),
        RewardTerm(channel="length", level=2, value=None),
    )
    assert (written.turn, written.valid, written.milestones) == (1, True, ("begun",))
    assert (more.milestones, more.terms[1].value) == (("full",), 2.0)
    assert more.seconds > 0
    assert env.reached == {"begun": 1, "full": 2}


@pytest.mark.parametrize(
    ("action", "shown"),
    [
        (call("write", text="x"), "error: write: line: field required"),
        (call("wrote", line="x"), "error: unknown tool wrote"),
        (call("refuse"), "error: not today"),
        (call("hand_in"), "error: nothing to hand in"),
        (InvalidAction(text="???", error="empty turn"), "error: empty turn"),
        (TextAction(text="hm"), "error: call a tool"),
    ],
)
async def test_an_agents_mistake_is_shown_to_it_and_the_episode_goes_on(
    envs: LocalEnvs, action: Any, shown: str
) -> None:
    async with envs.open("test/pad") as env:
        await env.reset()
        step = await env.step(action)
        assert step.view.text == shown
        assert step.record is not None
        assert (step.record.valid, step.end, step.record.error) == (False, None, "")
        assert (await env.step(call("write", line="a"))).view.text == "ok"


async def test_an_environment_may_talk(envs: LocalEnvs) -> None:
    async with envs.open("test/pad") as env:
        await env.reset()
        step = await env.step(TextAction(text="hi"))
    assert step.view.text == "hello"
    assert step.record is not None
    assert step.record.valid


async def test_calls_of_one_action_run_in_order_and_nothing_after_a_submission(envs: LocalEnvs) -> None:
    names = [("write", {"line": "a"}), ("refuse", {}), ("hand_in", {}), ("write", {"line": "b"})]
    calls = tuple(ToolCall(name=name, arguments=dict(arguments)) for name, arguments in names)
    async with envs.open("test/pad") as env:
        await env.reset()
        step = await env.step(CallAction(calls=calls))
        assert step.view.text == "ok\nerror: not today\nthanks"
        assert step.end is EndReason.SUBMITTED
        assert step.record is not None
        assert not step.record.valid
        assert await env.env.sandbox.read("pad") == b"a"


async def test_a_long_observation_is_cut_in_the_middle_and_says_so(envs: LocalEnvs) -> None:
    async with envs.open("test/pad") as env:
        await env.reset()
        shown = (await env.step(call("x" * 1000))).view.text
        short = (await env.step(call("x" * 20))).view.text
    assert shown == "error: unknown tool \n[… 980 characters cut …]\n" + "x" * 20
    assert short == "error: unknown tool " + "x" * 20


async def test_images_are_not_cut() -> None:
    class Gallery(Guess):
        name = "test/gallery"
        limits = EpisodeLimits(observation_chars=16)

        @tool
        def look(self) -> AgentView:
            """A picture and words."""
            picture = ImageBlock(media_type="image/png", data=b"p" * 100)
            return AgentView(content=(picture, *text("w" * 30).content))

    env = Session(Gallery(), Gallery().task_set("train")[0])
    await env.reset()
    content = (await env.step(call("look"))).view.content
    assert isinstance(content[0], ImageBlock)
    assert content[0].data == b"p" * 100
    assert content[1:] == text("w" * 8 + "\n[… 14 characters cut …]\n" + "w" * 8).content


# ---------------------------------------------------------------- misuse


async def test_a_session_is_used_in_order_and_by_one_at_a_time(envs: LocalEnvs) -> None:
    async with envs.open("test/pad") as env:
        with pytest.raises(RuntimeError, match="reset"):
            await env.step(WRITE)
        with pytest.raises(RuntimeError, match="reset"):
            await env.fork(1)
        await env.reset()
        with pytest.raises(RuntimeError, match="already reset"):
            await env.reset()
        running = asyncio.create_task(env.step(call("hang")))
        await asyncio.sleep(0)
        attempts: list[Callable[[], Awaitable[object]]] = [lambda: env.step(WRITE), lambda: env.fork(1)]
        for attempt in attempts:
            with pytest.raises(RuntimeError, match="already running"):
                await attempt()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await env.step(WRITE)).view.text == "ok"
        await env.conclude(EndReason.CONTEXT_LIMIT)
        assert env.score == 1.0
        for attempt in [*attempts, lambda: env.conclude(EndReason.SUBMITTED)]:
            with pytest.raises(RuntimeError, match="ended"):
                await attempt()
        assert env.turn == 1


# ---------------------------------------------------------------- forks and sandboxes


async def test_forks_go_their_own_ways_in_memory_on_disk_and_at_random(envs: LocalEnvs) -> None:
    async with envs.open("test/pad") as env:
        await env.reset()
        await env.step(WRITE)
        a, b = await env.fork(2)
        async with a, b:
            await a.step(call("write", line="x"))
            await b.step(call("write", line="y"))
            shown = [(await one.step(call("show"))).view.text.split() for one in (a, b, env)]
            assert [words[:2] for words in shown] == [["ax", "ax"], ["ay", "ay"], ["a", "a"]]
            assert len({words[2] for words in shown}) == 1
            assert (a.turn, env.turn) == (3, 2)
            assert (a.reached, env.reached) == ({"begun": 0, "full": 1}, {"begun": 0})
            await a.step(FinishAction())
            assert (a.score, b.end, env.end) == (1.0, None, None)


async def test_a_fork_of_a_lost_sandbox_fails_as_the_machines(envs: LocalEnvs) -> None:
    async with envs.open("test/pad") as env:
        await env.reset()
        await env.env.sandbox.close()
        with pytest.raises(SandboxDied):
            await env.fork(2)
        assert (await env.step(call("show"))).end is EndReason.INFRA_ERROR


async def test_sessions_wait_for_a_sandbox_and_give_it_back_however_they_end(envs: LocalEnvs) -> None:
    async def one(action: Any) -> EndReason | None:
        async with envs.open("test/pad") as env:
            await env.reset()
            assert (await env.step(call("show"))).view.text.startswith("  0.")  # nothing of the one before
            return (await env.step(action)).end

    async def cancelled() -> None:
        async with asyncio.timeout(0.2), envs.open("test/pad") as env:
            await env.reset()
            await env.step(WRITE)
            await env.step(call("hang"))

    outcomes = await asyncio.gather(
        *(one(action) for action in (WRITE, call("flood"), call("lose"), call("missing")) for _ in range(3)),
        *(cancelled() for _ in range(3)),
        return_exceptions=True,
    )
    ends = [None, EndReason.AGENT_FAULT, EndReason.INFRA_ERROR, EndReason.ENV_ERROR]
    assert outcomes[:12] == [end for end in ends for _ in range(3)]
    assert [type(outcome) for outcome in outcomes[12:]] == [TimeoutError] * 3


async def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(UsageError, match=r"'proces'.*did you mean 'process'") as told:
        LocalEnvs(backend="proces")
    assert "\n" not in str(told.value)
