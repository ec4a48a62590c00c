"""The bound on what a session's environment holds: who is ended, what is whose, and what it costs others."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
from aiohttp import ClientSession

from turnwise import connect
from turnwise.envs.env import Env
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import register
from turnwise.envs.serving.client import RemoteSession
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.faults import Code
from turnwise.envs.serving.listing import SessionList
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.serving.status import Status
from turnwise.envs.serving.weighing import weigh
from turnwise.envs.serving.wire import PATH
from turnwise.envs.session import Session, classify
from turnwise.envs.tasks import TaskSet
from turnwise.envs.tool import tool
from turnwise.envs.types import AgentView, EndReason, EpisodeLimits, Task, TaskRef, TaskSecret, call, text
from turnwise.sandbox.contract import MiB

BOUND = 16 * MiB


def some(number: int, size: int = MiB) -> list[bytes]:
    """Pieces of memory, none of which is another."""
    return [os.urandom(16) + bytes(size - 16) for _ in range(number)]


OF_THE_MODULE = some(50)


@cache
def of_the_source() -> tuple[Task, ...]:
    gold = TaskSecret(data={"gold": "x" * 50 * MiB})
    refs = [TaskRef(env="test/hoard", id=f"train/{seed}", seed=seed) for seed in range(3)]
    return tuple(Task(ref=ref, secret=gold) for ref in refs)


@register
class Hoard(Env):
    """Keeps what it is told to, beside what every session shares."""

    name = "test/hoard"
    limits = EpisodeLimits(turns=10_000)
    of_the_class: ClassVar[list[bytes]] = some(50)
    latest: ClassVar[Env]
    hanging: ClassVar[asyncio.Event]

    def tasks(self, split: str) -> TaskSet:
        return TaskSet("train", 3, lambda index, env: of_the_source()[index])

    async def reset(self, task: Task) -> AgentView:
        self.shared = [OF_THE_MODULE, self.of_the_class, task.secret]
        self.kept: list[Any] = []
        Hoard.latest = self  # that its class knows it makes it no less the session's
        return text("keep")

    @tool
    def keep(self, pieces: int) -> str:
        """Keep so many MiB more."""
        self.kept += some(pieces)
        return "kept"

    @tool
    async def hang(self, kept: bool) -> str:
        """Never returns, and keeps 20 MiB for it, or but works with them."""
        pieces = some(20)
        if kept:
            self.kept += pieces
        self.hanging.set()
        await asyncio.Event().wait()
        return ""

    async def grade(self) -> float:
        return 1.0


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[EnvServer]:
    server = EnvServer(["test/hoard"], port=0, session_memory=BOUND, **options)
    async with asyncio.timeout(50), server:
        yield server


async def refused(env: RemoteSession) -> ServerFailed:
    with pytest.raises(ServerFailed) as failure:
        await env.step(call("keep", pieces=0))
    return failure.value


async def test_who_holds_too_much_is_ended_without_a_reward_and_others_go_on() -> None:
    async with (
        serving(sessions=2) as server,
        connect(server.url) as envs,
        envs.open("test/hoard") as greedy,
        envs.open("test/hoard") as modest,
    ):
        for env in (greedy, modest):
            await env.reset()
            await env.step(call("keep", pieces=15))
        await server.memory.weigh()
        for env in (greedy, modest):
            assert (await env.step(call("keep", pieces=0))).end is None, "within the bound"
        await greedy.step(call("keep", pieces=2))
        await server.memory.weigh()
        failure = await refused(greedy)
        assert (failure.code, classify(failure)) == (Code.MEMORY, EndReason.INFRA_ERROR)
        assert re.search(r"holds at least 17\.\d MiB .* bound of 16\.0 MiB; .*--session-memory", str(failure))
        assert greedy.score is None
        last = await modest.step(call("keep", pieces=0))
        assert last.end is None
        await modest.conclude(EndReason.SUBMITTED)
        assert modest.score == 1.0
        async with envs.open("test/hoard"):
            pass  # its place is free again


@pytest.mark.parametrize("kept", [True, False])
async def test_an_end_at_the_bound_in_a_call_is_counted_and_logged_with_its_session(
    kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serving() as server,
        connect(server.url) as envs,
        envs.open("test/hoard") as env,
        ClientSession() as http,
    ):
        await env.reset()
        Hoard.hanging = asyncio.Event()
        running = asyncio.create_task(env.step(call("hang", kept=kept)))
        await Hoard.hanging.wait()
        await server.memory.weigh()
        with pytest.raises(ServerFailed, match="more than its bound"):
            await running
        async with connect(server.url) as other:
            with pytest.raises(ServerFailed) as told:
                await other.attach(env.info.session)
            assert told.value.code is Code.MEMORY, "whoever asks later"
        async with http.get(f"{server.url}{PATH}/status") as answer:
            status = Status.model_validate_json(await answer.text())
    (counts,) = status.envs
    assert (counts.closed, counts.infra_failures) == ({"infra_error": 1}, 1)
    assert [(line.code, line.session) for line in status.errors] == [("memory", env.info.session)]
    assert "more than its bound" in caplog.text


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only what is in no circle is freed."""
    gc.disable()
    yield
    gc.enable()


async def test_what_an_ended_session_held_is_freed_at_once(no_collector: None) -> None:
    async with serving() as server, connect(server.url) as envs, envs.open("test/hoard") as env:
        await env.reset()
        freed, Hoard.hanging = asyncio.Event(), asyncio.Event()
        weakref.finalize(Hoard.latest, freed.set)
        del Hoard.latest
        running = asyncio.create_task(env.step(call("hang", kept=True)))
        await Hoard.hanging.wait()
        await server.memory.weigh()
        with pytest.raises(ServerFailed):
            await running
        async with asyncio.timeout(10):
            await freed.wait()


async def test_an_agent_is_told_too() -> None:
    async with serving() as server, connect(server.url) as envs, envs.open("test/hoard") as env:
        await env.reset()
        async with connect(server.url, token=env.agent_token) as side:
            agent = await side.attach()
            await agent.step(call("keep", pieces=20))
            await server.memory.weigh()
            assert (await refused(agent)).code is Code.MEMORY


async def weights(server: EnvServer) -> list[int]:
    """In MiB, as an operator sees them."""
    await server.memory.weigh()
    async with ClientSession() as http, http.get(f"{server.url}{PATH}/sessions") as answer:
        lines = SessionList.model_validate_json(await answer.text()).sessions
    return [round(line.memory / MiB) for line in lines if line.memory is not None]


async def test_what_sessions_share_is_nobodys_also_where_there_is_but_one() -> None:
    async with serving() as server, connect(server.url) as envs, AsyncExitStack() as stack:
        for number in range(3):
            env = await stack.enter_async_context(envs.open("test/hoard", seed=number))
            await env.reset()
            await env.step(call("keep", pieces=number))
            assert await weights(server) == list(range(number + 1))


async def test_snapshots_count_and_forks_count_what_is_their_own() -> None:
    async with serving() as server, connect(server.url) as envs, envs.open("test/hoard") as env:
        await env.reset()
        await env.step(call("keep", pieces=4))
        del Hoard.latest  # which would keep what the session restores from
        await env.snapshot("four")
        assert await weights(server) == [4], "bytes cannot change: copies hold the same"
        (twin,) = await env.fork(1)
        await twin.step(call("keep", pieces=3))
        assert await weights(server) == [4, 3]
        await env.step(call("keep", pieces=5))
        await env.snapshot("nine")
        await env.restore("four")
        assert await weights(server) == [9, 3]
        await env.close()
        assert await weights(server) == [7]
        await twin.close()


@asynccontextmanager
async def holding(*objects: object) -> AsyncIterator[Session]:
    async with LocalEnvs() as envs, envs.open("test/hoard") as session:
        await session.reset()
        session.env.kept += objects  # type: ignore[attr-defined]
        yield session


class Boastful:
    def __init__(self) -> None:
        self.pieces = some(3)

    def __sizeof__(self) -> int:
        raise ZeroDivisionError

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise ZeroDivisionError

    def __hash__(self) -> int:
        raise ZeroDivisionError


def circle() -> list[object]:
    pieces: list[object] = [*some(3)]
    pieces.append(pieces)
    return pieces


def function() -> object:
    pieces = some(3)
    return lambda: pieces


def small() -> tuple[object, ...]:
    each = sys.getsizeof((0.0,)) + sys.getsizeof(0.0) + 8
    return tuple((float(number),) for number in range(3 * MiB // each))


def objects() -> np.ndarray[Any, Any]:
    array = np.empty(3, dtype=object)
    array[:] = some(3)
    return array


def tensors() -> list[object]:
    """Two of the same storage."""
    import torch

    whole = torch.zeros(3 * MiB, dtype=torch.uint8)
    return [whole, whole[5:]]


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(lambda: np.zeros(3 * MiB, dtype=np.uint8), id="array"),
        pytest.param(lambda: np.zeros(3 * MiB, dtype=np.uint8)[:5], id="view"),
        pytest.param(objects, id="objects in an array"),
        pytest.param(tensors, id="tensors"),
        pytest.param(Boastful, id="what misleads whoever asks it"),
        pytest.param(circle, id="circle"),
        pytest.param(function, id="function"),
        pytest.param(lambda: (one for one in some(3)), id="generator"),
        pytest.param(small, id="many small ones"),
        pytest.param(lambda: [asyncio.get_running_loop(), *some(3)], id="the loop, and so everything"),
    ],
)
async def test_what_an_environment_holds_whatever_it_is(kept: Any) -> None:
    async with holding(kept()) as session:
        (weight,) = await weigh([session], [])
    assert round(weight / MiB, 1) == pytest.approx(3, abs=0.15)


SERVED = """
import os
from turnwise import Env, register, seeds, text, tool
from turnwise.cli import main

@register
class Hoard(Env):
    name = "test/hoard"

    def tasks(self, split):
        return seeds(split, 3)

    async def reset(self, task):
        self.kept = []
        return text("keep")

    @tool
    def keep(self, pieces: int) -> str:
        self.kept += [os.urandom(1 << 20) for _ in range(pieces)]
        return "kept"

    async def grade(self):
        return 0.0

main()
"""


async def test_the_command_ends_who_holds_too_much_by_itself() -> None:
    words = ("serve", "test/hoard", "--port", "0", "--session-memory", "24MiB", "--log", "json")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVED, *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(50), AsyncExitStack() as stack:
            line = (await process.stdout.readline()).decode()
            envs = await stack.enter_async_context(connect(line.split(" at ")[1].split(";")[0]))
            greedy, modest = [await stack.enter_async_context(envs.open("test/hoard")) for _ in range(2)]
            for env in (greedy, modest):
                await env.reset()
                await env.step(call("keep", pieces=12))
            await greedy.step(call("keep", pieces=24))
            entry: dict[str, Any] = {"level": "info"}
            while entry["level"] == "info":
                entry = json.loads(await process.stderr.readline())
            assert entry["message"].startswith("memory: the session's environment holds at least 36.0 MiB")
            assert entry["session"] == greedy.info.session
            assert (await refused(greedy)).code is Code.MEMORY
            assert (await modest.step(call("keep", pieces=1))).end is None
    finally:
        process.terminate()
        await process.communicate()


def test_weighing_needs_no_torch() -> None:
    script = "import turnwise.envs.serving.weighing, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
