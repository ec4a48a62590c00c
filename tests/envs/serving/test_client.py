"""The client, and servers that misbehave or are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from socket import socket as Socket
from typing import Any

import pytest
from aiohttp import web

from turnwise import connect
from turnwise.envs.errors import UsageError
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.serving.wire import PATH
from turnwise.envs.types import Task, TaskPublic, TaskRef, TaskSecret

Behaviour = Callable[[web.WebSocketResponse], Awaitable[None]]
WELCOME = {"type": "welcome", "protocol": 1, "role": "trainer", "session": None, "patience": 1.0} | {
    "lease": "key",
    "lease_seconds": 0.0,
    "worker": 0,
    "workers": 1,
}


@asynccontextmanager
async def pretending(behave: Behaviour) -> AsyncIterator[str]:
    """A server that greets as one should and then does as it is told."""

    async def talk(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await behave(socket)
        return socket

    app = web.Application()
    app.router.add_get(PATH, talk)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with asyncio.timeout(120):
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_tasks_secret_stays_where_it_is() -> None:
    sent: list[str] = []

    async def listen(socket: web.WebSocketResponse) -> None:
        await socket.send_json(WELCOME)
        sent.append(await socket.receive_str())

    task = Task(
        ref=TaskRef(env="test/pad", id="train/0", seed=0),
        public=TaskPublic(instruction="add"),
        secret=TaskSecret(data={"gold": "xyzzy"}),
    )
    async with pretending(listen) as url, connect(url) as envs:
        with pytest.raises(ServerFailed):
            async with envs.open("test/pad", task=task):
                pass
    assert '"add"' in sent[0]
    assert "xyzzy" not in sent[0]


@pytest.mark.parametrize(
    "answer", ["{", "[]", '{"type": "closed", "id": 0}', '{"type": "view", "id": 0}', b"{}", None]
)
async def test_a_server_that_answers_nonsense_or_leaves_is_a_failed_server(
    answer: str | bytes | None,
) -> None:
    async def behave(socket: web.WebSocketResponse) -> None:
        await socket.send_json(WELCOME)
        await socket.receive_str()
        if answer is not None:
            await (socket.send_bytes(answer) if isinstance(answer, bytes) else socket.send_str(answer))
            await socket.receive()

    said = "dropped" if answer is None else "answered open with|is not of this protocol"
    async with pretending(behave) as url, connect(url) as envs:
        with pytest.raises(ServerFailed, match=f"{url}.*({said})|({said}).*{url}"):
            async with envs.open("test/pad"):
                pass


async def test_what_is_no_server_of_ours_is_told_apart_from_none_at_all() -> None:
    async def other(socket: web.WebSocketResponse) -> None:
        await socket.send_json(WELCOME | {"protocol": 2})

    async with pretending(other) as url:
        for wrong in (
            url,
            f"{url}/elsewhere",
            "localhost:8000",
            "ftp://x",
            "http://",
            "http://x:y",
            "http://[",
        ):
            with pytest.raises(UsageError, match="url"):
                async with connect(wrong):
                    pass
    with Socket() as taken:  # where nobody listens, nor can while this has it
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ServerFailed, match="no server answers"):
            async with connect(f"http://127.0.0.1:{taken.getsockname()[1]}"):
                pass


async def test_a_connection_that_drops_before_the_welcome_is_made_anew() -> None:
    connections = 0

    async def behave(socket: web.WebSocketResponse) -> None:
        nonlocal connections
        connections += 1
        if connections == 2:
            return
        await socket.send_json(WELCOME | {"lease_seconds": 100.0})
        asked = await socket.receive_json()
        if connections == 3:
            fault = {"code": "running", "message": "here", "remedy": "wait", "end": None, "retry_after": None}
            await socket.send_json({"type": "fault", "id": asked["id"], "fault": fault})
            await socket.receive()

    async with pretending(behave) as url, connect(url) as envs:
        with pytest.raises(RuntimeError, match="here"):
            await envs.attach("s")


async def test_a_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def behave(socket: web.WebSocketResponse) -> None:
        await socket.send_json(WELCOME)
        async for _ in socket:
            pass

    monkeypatch.setattr("turnwise.envs.serving.client.answer_seconds", lambda *_: 0.0)
    monkeypatch.setattr("turnwise.envs.serving.client.MARGIN_SECONDS", 0.1)
    async with pretending(behave) as url, connect(url) as envs:
        with pytest.raises(ServerFailed, match="did not answer within"):
            async with envs.open("test/pad"):
                pass


SECRET = "not-to-be-shown"


@pytest.mark.parametrize(
    "url",
    [
        f"http://me:{SECRET}@127.0.0.1:1",
        f"ftp://me:{SECRET}@host",
        f"me:{SECRET}@host:8000",
        f"http://me:{SECRET}@[",
        f"http://me:{SECRET}@host:x",
        f"http://me:{SECRET}@a..b",
    ],
)
async def test_a_urls_password_is_not_shown(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises((UsageError, ServerFailed)) as failed:
        async with connect(url):
            pass
    assert SECRET not in f"{failed.value!r} {failed.value} {caplog.text}"


async def test_a_urls_password_is_the_token_and_not_told_to_who_uses_the_server() -> None:
    async with EnvServer(["test/pad"], port=0, token=SECRET, backend="process") as server:
        url = server.url.replace("://", f"://me:{SECRET}@")
        async with connect(url) as envs, envs.open("test/pad"):
            assert envs.url == server.url
        with pytest.raises(UsageError, match="not in both") as failed:
            async with connect(url, token=SECRET):
                pass
        assert SECRET not in str(failed.value)


@pytest.mark.parametrize("url", [None, 8000, b"http://host"])
async def test_a_url_is_text(url: Any) -> None:
    with pytest.raises(UsageError, match=r"url .*: must be text that looks like http://host:8000"):
        async with connect(url):
            pass
