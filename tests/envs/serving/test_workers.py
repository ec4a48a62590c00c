"""Several worker processes behind one address."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from hypothesis import given
from hypothesis import strategies as st

from tests.envs.conftest import relay
from turnwise import connect
from turnwise.envs.errors import UsageError
from turnwise.envs.serving import front as front_module
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.faults import Code
from turnwise.envs.serving.front import Front
from turnwise.envs.serving.routing import END, Place, leads_back, worker_of
from turnwise.envs.serving.wire import PATH, WORKER_HEADER
from turnwise.envs.types import call


def make_front(**options: Any) -> Front:
    return Front(["tools/configdesk"], workers=2, port=0, backend="process", **options)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front() -> AsyncIterator[Front]:
    """Shared, as processes take seconds to start; each test leaves it without a connection."""
    async with make_front() as front:
        yield front


async def until(truth: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not truth():  # noqa: ASYNC110 - what it waits for happens in other processes
            await asyncio.sleep(0.01)


async def until_it_drains(front: Front, worker: int) -> None:
    async with asyncio.timeout(120), ClientSession(headers={WORKER_HEADER: str(worker)}) as http:
        while True:
            async with http.get(f"{front.url}/health") as answer:
                if answer.status == 503:
                    return
            await asyncio.sleep(0.01)


def loads(front: Front) -> list[int]:
    return [worker.connections for _, worker in sorted(front.alive.items())]


shared = pytest.mark.asyncio(loop_scope="module")


@shared
async def test_connections_go_to_the_worker_with_the_fewest(front: Front) -> None:
    await until(lambda: loads(front) == [0, 0])
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connect(front.url)) for _ in range(4)]
        assert loads(front) == [2, 2]
        for envs in connections:
            async with envs.open("tools/configdesk", seed=1) as env:
                await env.reset()
                assert (await env.step(call("grep", pattern="x"))).record is not None
    await until(lambda: loads(front) == [0, 0])


@shared
async def test_one_client_spreads_its_sessions_over_the_workers(front: Front) -> None:
    await until(lambda: loads(front) == [0, 0])
    async with connect(front.url) as envs, AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(envs.open("tools/configdesk", seed=i)) for i in range(4)]
        assert loads(front) == [1, 1]
        for env in sessions:
            await env.reset()
            assert (await env.step(call("check"))).record is not None
            async with connect(front.url, token=env.agent_token) as side:
                assert (await (await side.attach()).step(call("check"))).record is None
            async with connect(front.url) as other:
                assert (await other.attach(env.info.session)).turn == 2


@shared
async def test_a_client_returns_to_the_worker_of_its_sessions(front: Front) -> None:
    async with relay(front) as way, connect(way.url) as envs, AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(envs.open("tools/configdesk")) for _ in range(2)]
        for env in sessions:
            await env.reset()
        way.cut()
        for env in sessions:
            assert (await env.step(call("check"))).record is not None


@shared
async def test_a_session_of_openenvs_is_attached_to_in_its_worker(front: Front) -> None:
    await until(lambda: loads(front) == [0, 0])
    create = {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/create"}
    async with AsyncExitStack() as stack:
        for _ in range(4):
            http, sockets = [await stack.enter_async_context(ClientSession()) for _ in range(2)]
            async with http.post(f"{front.url}/mcp", json=create) as answer:
                name = (await answer.json())["result"]["session_id"]
            async with sockets.ws_connect(f"{front.url}/ws?session_id={name}") as socket:
                await socket.send_json({"type": "state"})
                assert (await socket.receive_json())["type"] == "state"
            close = {**create, "method": "openenv/session/close", "params": {"session_id": name}}
            async with http.post(f"{front.url}/mcp", json=close) as answer:
                assert "result" in await answer.json()


@shared
async def test_a_session_made_over_http_is_reached_from_any_connection(front: Front) -> None:
    async def rpc(worker: int, method: str, **params: Any) -> Any:
        """Over a connection of its own, to a worker of choice."""
        request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        async with (
            ClientSession(headers={WORKER_HEADER: str(worker)}) as http,
            http.post(f"{front.url}/openenv/tools/configdesk/mcp", json=request) as answer,
        ):
            reply = await answer.json()
            assert reply["id"] == 7
            return reply.get("result") or reply["error"]

    name = (await rpc(0, "openenv/session/create"))["session_id"]
    assert name.startswith("0.")
    for worker in (1, 0, 1):
        assert "isError" in await rpc(worker, "tools/call", session_id=name, name="check")
    async with ClientSession() as http, http.ws_connect(f"{front.url}/ws?session_id={name}") as socket:
        await socket.send_json({"type": "state"})
        assert (await socket.receive_json())["data"]["step_count"] == 3
        assert (await rpc(1, "openenv/session/close", session_id=name))["closing"]
    unknown = await rpc(1, "tools/call", session_id="0.8f14e45f", name="check")
    assert unknown["message"] == "Unknown session_id: 0.8f14e45f"


@shared
async def test_every_worker_knows_the_sessions_of_all(front: Front) -> None:
    async with connect(front.url) as envs, ClientSession() as http, AsyncExitStack() as stack:
        names = {
            (await stack.enter_async_context(envs.open("tools/configdesk"))).info.session for _ in range(2)
        }
        for worker in range(2):

            async def known(worker: int = worker) -> set[str]:
                """Of those that answer in time."""
                headers = {WORKER_HEADER: str(worker)}
                async with http.get(f"{front.url}{PATH}/sessions", headers=headers) as got:
                    return {line["session"] for line in (await got.json())["sessions"]}

            async with asyncio.timeout(120):
                while await known() != names:
                    pass
        for name in names:
            async with http.delete(f"{front.url}{PATH}/sessions/{name}") as gone:
                assert gone.status == 204
        async with http.delete(f"{front.url}{PATH}/sessions/{name}") as gone:
            assert gone.status == 404


async def test_draining_lets_sessions_end_and_takes_no_more() -> None:
    async with make_front() as front, connect(front.url) as envs:
        async with envs.open("tools/configdesk") as env:
            await env.reset()
            draining = asyncio.create_task(front.drain(1000.0))
            for worker in front.alive:
                await until_it_drains(front, worker)
            with pytest.raises(ServerFailed, match="stop"):
                async with envs.open("tools/configdesk"):
                    pass
            await env.step(call("check"))
            assert not draining.done()
        await draining


async def test_a_worker_that_dies_takes_only_its_own_sessions_and_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(front_module, "RESTART_SECONDS", 0.0)
    async with (
        make_front() as front,
        connect(front.url) as envs,
        envs.open("tools/configdesk") as lost,
        envs.open("tools/configdesk") as kept,
    ):
        await lost.reset()
        await kept.reset()
        victim = front.alive[0]
        victim.process.kill()
        with pytest.raises(ServerFailed) as failed:
            await lost.step(call("check"))
        assert failed.value.code is Code.GONE
        assert (await kept.step(call("check"))).record is not None
        await until(lambda: 0 in front.alive and front.alive[0] is not victim)
        with pytest.raises(ServerFailed) as failed:
            await lost.step(call("check"))
        assert failed.value.code is Code.GONE
        async with envs.open("tools/configdesk") as env:
            await env.reset()
        counts: list[str] = []
        async with asyncio.timeout(120), ClientSession() as http:
            while len(counts) < 2:  # of the workers that answer in time
                async with http.get(f"{front.url}/metrics") as answer:
                    lines = (await answer.text()).splitlines()
                counts = [line for line in lines if "sessions_lost_total{" in line]
        assert counts == [f'turnwise_sessions_lost_total{{worker="{n}"}} {1 - n}.0' for n in (0, 1)]


async def test_nobody_waits_for_a_worker_that_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_module, "RESTART_SECONDS", 1000.0)  # its successor does not come
    async with (
        asyncio.timeout(300),
        make_front(sessions=2) as front,
        connect(front.url) as envs,
        envs.open("tools/configdesk") as one,
        envs.open("tools/configdesk") as other,
    ):
        lost, kept = sorted((one, other), key=lambda env: str(env.agent_token))
        await lost.reset()
        pid = front.alive[0].process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)

        async def opened() -> None:
            async with envs.open("tools/configdesk"):
                pass

        async with asyncio.TaskGroup() as tasks:
            step = asyncio.create_task(lost.step(call("check")))
            tasks.create_task(lost.close())
            for _ in range(4):  # some wait for a place at either worker
                tasks.create_task(opened())
            await asyncio.sleep(0)  # so that all are on their way
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(ServerFailed, match="died") as failed:
                await step
            assert failed.value.code is Code.GONE
            await kept.close()


@shared
async def test_a_client_that_dawdles_holds_up_nobody(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_module, "HEAD_SECONDS", 1000.0)
    _, writer = await asyncio.open_connection(front.host, front.port)
    writer.write(b"GET /turnwise/v1 HTT")
    await writer.drain()
    async with asyncio.timeout(120), connect(front.url) as envs, envs.open("tools/configdesk") as env:
        await env.reset()
    writer.close()
    await writer.wait_closed()


async def test_what_a_server_refuses_is_refused_before_a_worker_starts() -> None:
    for options, complaint in (
        ({"sessions": 1}, "workers=2: must be from 1 to the number of sessions, 1"),
        ({"host": "0.0.0.0"}, "set a token"),
        ({"tls": ("a", "b")}, "put a proxy that speaks TLS before them"),
    ):
        with pytest.raises(UsageError, match=complaint):
            make_front(**options)


async def test_a_worker_that_does_not_come_up_stops_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_module, "START_SECONDS", 0.0)
    with pytest.raises(UsageError, match="was not ready within 0 s"):
        async with make_front():
            pass


@given(index=st.integers(0, 9999))
def test_what_a_worker_gives_out_leads_back_to_it(index: int) -> None:
    secret = Place(index, index + 1).secret()
    assert worker_of(f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\n\r\n".encode()) == index
    assert worker_of(f"GET / HTTP/1.1\r\nTurnwise-Lease: {secret}\r\n\r\n".encode()) == index


@pytest.mark.parametrize(
    ("lead", "back"), [(b"Turnwise-Lease: 2.y", True), (b"Turnwise-Worker: 2", False), (b"Host: a", False)]
)
def test_who_leads_back_to_what_a_worker_holds(lead: bytes, back: bool) -> None:
    assert leads_back(b"GET /turnwise/v1 HTTP/1.1\r\n" + lead + END) == back


@pytest.mark.parametrize(
    ("head", "worker"),
    [
        (b"GET /turnwise/v1 HTTP/1.1\r\nTurnwise-Worker: 3\r\n\r\n", 3),
        (b"GET / HTTP/1.1\r\nauthorization: bearer 1.x\r\nturnwise-lease: 2.y\r\n\r\n", 2),
        (b"GET / HTTP/1.1\r\nTurnwise-Lease: 2.y\r\nTurnwise-Worker: 3\r\n\r\n", 3),
        (b"GET /turnwise/v1 HTTP/1.1\r\nTurnwise-Worker: 3x\r\n\r\n", None),
        (b"GET /Turnwise-Worker: 3\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nAuthorization: Bearer a-long-secret\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nAuthorization: Basic YW55OjEueA==\r\n\r\n", 1),  # any:1.x
        (b"GET / HTTP/1.1\r\nAuthorization: Basic MS54\r\n\r\n", None),  # 1.x, which is no password
        (b"GET / HTTP/1.1\r\nAuthorization: Basic ?\r\nHost: a\r\n\r\n", None),
        (b"GET /ws?session_id=2.8f HTTP/1.1\r\nAuthorization: Digest 1.x\r\n\r\n", 2),
        (b"GET /ws?session_id=2.8f14e45f HTTP/1.1\r\nHost: a\r\n\r\n", 2),
        (b"GET /ws?session_id=8f14e45f HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"", None),
        (b"\xff\x00", None),
    ],
)
def test_where_a_head_leads(head: bytes, worker: int | None) -> None:
    assert worker_of(head) == worker
