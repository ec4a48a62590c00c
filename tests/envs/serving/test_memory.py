"""The bound on what a session's environment holds: who is ended, and what it costs others."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.envs.serving.hoard import BOUND, Hoard, refused
from turnwise import connect
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.faults import Code
from turnwise.envs.serving.listing import SessionList
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.serving.status import Status
from turnwise.envs.serving.wire import PATH
from turnwise.envs.session import classify
from turnwise.envs.types import EndReason, call
from turnwise.sandbox.contract import MiB


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[EnvServer]:
    server = EnvServer(["test/hoard"], port=0, session_memory=BOUND, **options)
    async with asyncio.timeout(120), server:
        yield server


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
        async with asyncio.timeout(60):
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
        async with asyncio.timeout(120), AsyncExitStack() as stack:
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
