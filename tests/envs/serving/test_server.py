"""Environments of a server: like local ones, many at once, each as long as its connection, bounded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from turnwise import connect
from turnwise.envs.env import Env, random_call
from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import register
from turnwise.envs.serving.client import RemoteEnvs, RemoteSession
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.faults import Code
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.session import EpisodeFailed, Session
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import milestone, tool
from turnwise.envs.types import (
    Action,
    AgentView,
    EndReason,
    EpisodeLimits,
    FinishAction,
    ImageBlock,
    InvalidAction,
    Step,
    Task,
    TaskPublic,
    TextAction,
    TextBlock,
    ToolSpec,
    call,
)

PNG = bytes(range(256))


@register
class Guess(Env):
    """Guess a number."""

    name = "served/guess"
    n: int
    last: int

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 1000)

    async def reset(self, task: Task) -> AgentView:
        self.n, self.last = task.rng.randint(1, 9), 0
        return AgentView(content=(TextBlock(text="Guess 1-9"), ImageBlock(media_type="image/png", data=PNG)))

    @tool
    async def guess(self, n: int) -> str:
        """Guess it."""
        self.last = n
        return "yes" if n == self.n else "no"

    @milestone
    def warm(self) -> bool:
        return abs(self.last - self.n) <= 1

    async def grade(self) -> float:
        return float(self.last == self.n)

    async def digest(self) -> str:
        return f"{self.n} {self.last}"


@asynccontextmanager
async def served(
    *envs: str, sessions: int = 128, patience: float = 100.0, token: str | None = None, lease: float = 60.0
) -> AsyncIterator[EnvServer]:
    """A server on loopback, whose sandboxes need no rights."""
    names = envs or ("served/guess", "test/pad")
    async with (
        asyncio.timeout(120),
        EnvServer(
            names,
            port=0,
            sessions=sessions,
            patience=patience,
            token=token,
            lease=lease,
            backend="process",
        ) as server,
    ):
        yield server


@pytest.fixture
async def remote() -> AsyncIterator[RemoteEnvs]:
    async with served() as server, connect(server.url) as envs:
        yield envs


async def test_the_program_of_the_documents() -> None:
    token = "a-secret-of-the-trainer"
    async with (
        served(token=token) as server,
        connect(server.url, token=token) as envs,
        envs.open("served/guess", seed=3) as env,
    ):
        view = await env.reset()
        assert view.text == "Guess 1-9"
        assert [spec.name for spec in view.tools] == ["guess"]
        a, b = await env.fork(2)
        step = await a.step(call("guess", n=4))
        assert (step.view.text, step.done, a.turn, b.turn) == ("no", False, 1, 0)


def timeless(step: Step) -> Step:
    """All of a step but what a clock said."""
    assert step.record is not None
    return step.model_copy(update={"record": step.record.model_copy(update={"seconds": 0.0})})


async def play(env: Session | RemoteSession, seed: int) -> list[object]:
    """An episode at random: tool calls that work and fail, words, nonsense, and at last the end."""
    rng = random.Random(seed)
    opening = await env.reset()
    tools: list[ToolSpec] = [spec for spec in opening.tools if spec.name not in ("hang", "hand_in")]
    seen: list[object] = [opening]
    while env.end is None:
        actions: list[Action] = [random_call(tools, rng) for _ in range(6)]
        actions += [TextAction(text="hi"), InvalidAction(text="?", error="no"), call("guess", m=1)]
        actions += [FinishAction(answer="é\0😀")] if env.turn > 2 else []
        seen.append(timeless(await env.step(rng.choice(actions))))
    return [*seen, env.turn, env.end, env.score, env.reached, env.limits, env.guide]


@pytest.mark.parametrize("name", ["served/guess", "test/pad", "test/pad?fault=milestone"])
async def test_remote_equals_local(name: str, remote: RemoteEnvs) -> None:
    ends = set()
    async with LocalEnvs(backend="process") as local:
        for seed in range(12):
            async with local.open(name, seed=seed, split="test") as env:
                expected = await play(env, seed)
            async with remote.open(name, seed=seed, split="test") as there:
                assert await play(there, seed) == expected
            ends.add(env.end)
    assert len(ends) > 1 or "fault" in name


async def test_many_sessions_at_once_on_one_connection_and_on_many() -> None:
    async def one(envs: LocalEnvs | RemoteEnvs, seed: int) -> list[object]:
        async with envs.open("served/guess", seed=seed) as env:
            return await play(env, seed)

    async def all_of(sources: list[RemoteEnvs]) -> list[list[object]]:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(sources[i % len(sources)], i)) for i in range(64)]
        return [task.result() for task in running]

    async with LocalEnvs() as local:
        expected = [await one(local, seed) for seed in range(64)]
    async with (
        served(sessions=64) as server,
        connect(server.url) as a,
        connect(server.url) as b,
        connect(server.url) as c,
    ):
        assert await all_of([a]) == expected
        assert await all_of([a, b, c]) == expected


async def test_forks_go_on_apart_files_included(remote: RemoteEnvs) -> None:
    async with remote.open("test/pad") as env:
        await env.reset()
        await env.step(call("write", line="a"))
        left, right = await env.fork(2)
        assert left.reached == {"begun": 0}
        await left.step(call("write", line="b"))
        await env.step(call("write", line="c"))
        shown = [(await one.step(call("show"))).view.text.split() for one in (env, left, right)]
        assert [words[:2] for words in shown] == [["ac", "ac"], ["ab", "ab"], ["a", "a"]]
        assert shown[0][2] == shown[1][2] == shown[2][2], "the same random stream"
        await env.close()
        (deeper,) = await left.fork(1)
        assert (await deeper.step(call("show"))).view.text.startswith("ab ab")


async def test_a_known_task_is_opened_by_its_name_with_the_callers_limits(remote: RemoteEnvs) -> None:
    task = Guess().task_set("validation")[7]
    short = task.model_copy(update={"public": TaskPublic(limits=EpisodeLimits(turns=1))})
    for given, end in ((task, None), (short, EndReason.TURN_LIMIT)):
        async with remote.open("served/guess", task=given) as env:
            await env.reset()
            step = await env.step(call("guess", n=1))
            assert env.info.ref == task.ref
            assert step.end is end
    other = task.model_copy(update={"public": TaskPublic(instruction="something else")})
    with pytest.raises(UsageError, match="reads differently"):
        async with remote.open("served/guess", task=other):
            pass
    lost = task.model_copy(update={"ref": task.ref.model_copy(update={"id": "test/1e9"})})
    with pytest.raises(UsageError, match="1e9"):
        async with remote.open("served/guess", task=lost):
            pass


async def test_an_episode_can_be_concluded(remote: RemoteEnvs) -> None:
    async with remote.open("served/guess") as env:
        await env.reset()
        assert await env.conclude(EndReason.CONTEXT_LIMIT, "full") == "full"
        assert (env.end, env.score) == (EndReason.CONTEXT_LIMIT, 0.0)
        with pytest.raises(RuntimeError, match="ended"):
            await env.step(FinishAction())


async def test_mistakes_raise_what_they_raise_locally(remote: RemoteEnvs) -> None:
    for name, said in (("served/gess", "served/guess"), ("test/pad?falt=x", "fault")):
        with pytest.raises(UsageError, match=said):
            async with remote.open(name):
                pass
    with pytest.raises(UsageError, match="train"):
        async with remote.open("served/guess", split="trian"):
            pass
    async with remote.open("test/pad?fault=reset") as env:
        with pytest.raises(EpisodeFailed, match="LimitExceeded") as failed:
            await env.reset()
        assert failed.value.end is EndReason.ENV_ERROR
    async with remote.open("test/pad") as env:
        with pytest.raises(RuntimeError, match="reset"):
            await env.step(call("show"))
        await env.reset()
        with pytest.raises(RuntimeError, match="reset before"):
            await env.reset()
        running = asyncio.create_task(env.step(call("hang")))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="running"):
            await env.step(call("show"))
        running.cancel()
        await asyncio.wait([running])
    async with remote.open("test/pad") as env:
        await env.reset()
        assert (await env.step(call("write", line="x"))).view.text == "ok", "the server lives on"


async def test_an_environment_with_options_is_served_with_those_alone() -> None:
    async with served("test/pad?fault=grade") as server, connect(server.url) as envs:
        async with envs.open("test/pad?fault=grade") as env:
            await env.reset()
            step = await env.step(FinishAction())
            assert step.end is EndReason.ENV_ERROR
            assert env.score is None
        with pytest.raises(UsageError, match="fault=grade"):
            async with envs.open("test/pad"):
                pass


async def test_beyond_the_bound_an_open_waits_and_then_says_busy() -> None:
    async with served(sessions=1, patience=0.05) as server, connect(server.url) as envs:
        async with envs.open("test/pad") as env:
            await env.reset()
            with pytest.raises(ServerFailed, match="--sessions") as busy:
                async with envs.open("served/guess"):
                    pass
            assert busy.value.code is Code.BUSY
            with pytest.raises(ServerFailed, match="places") as busy:
                await env.fork(1)
            assert busy.value.code is Code.BUSY
            assert (await env.step(call("write", line="x"))).view.text == "ok"
        async with envs.open("served/guess") as env:
            await env.reset()


async def test_forks_get_all_their_places_or_take_none() -> None:
    async with served(sessions=3) as server, connect(server.url) as envs, envs.open("test/pad") as env:
        await env.reset()
        with pytest.raises(ServerFailed, match="3 places are needed, 2 are free"):
            await env.fork(3)
        for twin in await env.fork(2):
            await twin.step(call("write", line="x"))


async def test_who_waits_gets_the_place_and_who_gives_up_leaves_none_taken() -> None:
    async with served(sessions=1) as server, connect(server.url) as envs:

        async def turn(seed: int) -> int:
            async with envs.open("test/pad", seed=seed) as env:
                await env.reset()
                return (await env.step(call("write", line="x"))).view.text == "ok" and seed

        async with envs.open("test/pad") as first:
            await first.reset()
            waiting = [asyncio.create_task(turn(seed)) for seed in range(1, 6)]
            await asyncio.sleep(0.05)
            for one in waiting[:3]:
                one.cancel()
        assert [await one for one in waiting[3:]] == [4, 5]


async def test_a_server_that_stops_fails_calls_but_scores_nothing() -> None:
    async with AsyncExitStack() as serving:
        server = await serving.enter_async_context(served())
        async with connect(server.url) as envs, envs.open("test/pad") as env:
            await env.reset()
            hanging = asyncio.create_task(env.step(call("hang")))
            await asyncio.sleep(0.05)
            await serving.aclose()
            with pytest.raises(ServerFailed, match=server.url):
                await hanging
            with pytest.raises(ServerFailed):
                await env.conclude(EndReason.SUBMITTED)
            assert (env.end, env.score) == (None, None)
