"""Too many, too old, too late: what a server does at its bounds and when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import ClientSession, WSServerHandshakeError

from turnwise import connect
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.faults import Code
from turnwise.envs.serving.lease import AGENTS
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.serving.wire import PATH
from turnwise.envs.types import FinishAction, call


@asynccontextmanager
async def serving(
    sessions: int = 8, patience: float = 100.0, max_age: float | None = None
) -> AsyncIterator[EnvServer]:
    server = EnvServer(
        ["test/pad"], port=0, sessions=sessions, patience=patience, max_age=max_age, backend="process"
    )
    async with asyncio.timeout(120), server:
        yield server


async def test_who_waits_in_vain_is_told_when_to_try_again() -> None:
    async with (
        serving(sessions=1, patience=0.05) as server,
        connect(server.url) as envs,
        envs.open("test/pad") as env,
    ):
        await env.reset()
        with pytest.raises(ServerFailed) as busy:
            async with envs.open("test/pad"):
                pass
        assert (busy.value.code, busy.value.retry_after) == (Code.BUSY, 5.0)


async def test_more_clients_than_there_is_room_for_get_429_with_retry_after() -> None:
    async with serving(sessions=1) as server, AsyncExitStack() as stack:
        http = await stack.enter_async_context(ClientSession())
        for _ in range(68):
            await stack.enter_async_context(http.ws_connect(server.url + PATH))
        for path in (PATH, "/ws"):
            with pytest.raises(WSServerHandshakeError) as refused:
                await http.ws_connect(server.url + path)
            assert refused.value.status == 429
            assert refused.value.headers is not None
            assert refused.value.headers["Retry-After"] == "5"
        with pytest.raises(ServerFailed, match="no room") as busy:
            async with connect(server.url):
                pass
        assert (busy.value.code, busy.value.retry_after) == (Code.BUSY, 5.0)
        async with http.get(f"{server.url}/health") as answer:
            assert answer.status == 200, "others are served"


async def test_an_agent_takes_no_room_from_others_however_often_it_comes() -> None:
    async with serving() as server, connect(server.url) as envs, envs.open("test/pad") as env:
        await env.reset()
        async with ClientSession(headers={"Authorization": f"Bearer {env.agent_token}"}) as http:
            for _ in range(AGENTS):
                socket = await http.ws_connect(server.url + PATH)
                await socket.receive()
                socket._response.close()  # without a goodbye
            with pytest.raises(WSServerHandshakeError) as refused:
                await http.ws_connect(server.url + PATH)
            assert refused.value.status == 429
        async with connect(server.url):
            pass


async def test_a_session_that_is_too_old_is_closed_whatever_it_does() -> None:
    async with (
        serving(sessions=1, max_age=0.3) as server,
        connect(server.url) as envs,
        envs.open("test/pad") as env,
    ):

        async def play() -> None:
            await env.reset()
            await env.step(call("hang"))

        with pytest.raises(ServerFailed, match="its greatest age"):  # be it in a call or between two
            await play()
        with pytest.raises(ServerFailed, match="its greatest age"):
            await env.step(call("show"))
        async with envs.open("test/pad"):
            pass


async def test_a_server_that_drains_takes_in_nothing_and_waits_for_what_is_open() -> None:
    async with (
        serving(sessions=2) as server,
        ClientSession() as http,
        connect(server.url) as envs,
        envs.open("test/pad") as env,
    ):
        await env.reset()
        async with envs.open("test/pad"):
            waiting = asyncio.create_task(envs.open("test/pad").__aenter__())
            await asyncio.sleep(0.05)  # it is in the queue; were it not yet, it would be refused all the same
            draining = asyncio.create_task(server.drain(1000.0))
            with pytest.raises(ServerFailed) as refused:
                await waiting
            assert refused.value.code is Code.DRAINING
        with pytest.raises(ServerFailed) as refused:
            await env.fork(1)
        assert refused.value.code is Code.DRAINING
        async with http.get(f"{server.url}/health") as answer:
            assert (answer.status, await answer.json()) == (503, {"status": "draining"})
        last = await env.step(FinishAction())
        assert (last.done, draining.done()) == (True, False)
        await env.close()
        await draining


async def test_draining_has_an_end() -> None:
    async with serving() as server, connect(server.url) as envs, envs.open("test/pad") as env:
        await env.reset()
        await server.drain(0.01)
        assert (await env.step(call("write", line="x"))).view.text == "ok", "until the server is stopped"
