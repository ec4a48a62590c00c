"""The server's door: who gets in, what a bad frame is answered with, and how much one client may ask.

Frames are written by hand here, as a stranger's client would.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSServerHandshakeError

from tests.envs.conftest import Pad
from turnwise import connect
from turnwise.envs.errors import UsageError
from turnwise.envs.registry import register
from turnwise.envs.serving.faults import MAX_FRAME
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.serving.tokens import Tokens
from turnwise.envs.serving.wire import PATH
from turnwise.envs.types import FinishAction, call

TOKEN = "the-trainers-own-token"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Raw:
    """A WebSocket, in and out of JSON."""

    socket: ClientWebSocketResponse
    ids: Iterator[int] = field(default_factory=lambda: count(10))
    lines: list[str] = field(default_factory=list)
    """Of the last frame, those to come."""

    async def get(self) -> Json:
        if not self.lines:
            self.lines.extend((await self.socket.receive_str()).split("\n"))
        answer: Json = json.loads(self.lines.pop(0))
        return answer

    async def ask(self, **request: Any) -> Json:
        number = next(self.ids)
        await self.socket.send_json({"id": number, "session": "s", **request})
        answer = await self.get()
        assert answer["id"] == number
        return answer

    async def open(self, session: str = "s") -> Json:
        env = {"name": "test/pad", "options": {}}
        return await self.ask(type="open", session=session, env=env, task={"kind": "seed"})

    async def code(self, **request: Any) -> str:
        """The code of the fault that a request is answered with."""
        fault: dict[str, str] = (await self.ask(**request))["fault"]
        assert fault["message"]
        assert fault["remedy"]
        return fault["code"]


@register
class Wordy(Pad):
    """An environment with very much to say of itself."""

    name = "test/wordy"
    description = "x" * (1 << 20)


@asynccontextmanager
async def serving(
    token: str | None = None, envs: tuple[str, ...] = ("test/pad",), sessions: int = 8, lease: float = 60.0
) -> AsyncIterator[EnvServer]:
    async with (
        asyncio.timeout(120),
        EnvServer(envs, port=0, token=token, sessions=sessions, lease=lease, backend="process") as server,
    ):
        yield server


@asynccontextmanager
async def raw(server: EnvServer, token: str | None = None, **headers: str) -> AsyncIterator[Raw]:
    """A connection that was welcomed."""
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    async with ClientSession(headers=headers) as http, http.ws_connect(server.url + PATH) as socket:
        client = Raw(socket)
        welcome = await client.get()
        assert (welcome["type"], welcome["protocol"]) == ("welcome", 1)
        yield client


@pytest.fixture
async def client() -> AsyncIterator[Raw]:
    """A connection with a session ``s`` that was reset."""
    async with serving() as server, raw(server) as client:
        await client.open()
        await client.ask(type="reset")
        yield client


WRITE = {"kind": "calls", "calls": [{"name": "write", "arguments": {"line": "x"}}]}
HANG = {"kind": "calls", "calls": [{"name": "hang"}]}


@pytest.mark.parametrize(
    ("frame", "code", "request_id"),
    [
        ("{", "invalid_json", None),
        ("\0", "invalid_json", None),
        ('{"type": "step", "id": 1, "session": "s", "action": "\\ud800"}', "invalid_json", None),
        ("[" * 100_000, "invalid_json", None),
        ("[]", "invalid_request", None),
        ("7", "invalid_request", None),
        ("{}", "unknown_type", None),
        ('{"type": "stepp", "id": 5}', "unknown_type", 5),
        ('{"type": null, "id": true}', "unknown_type", None),
        ('{"type": "reset", "session": "s"}', "invalid_request", None),
        ('{"type": "reset", "session": "s", "id": "1"}', "invalid_request", None),
        ('{"type": "reset", "session": "../s", "id": 1}', "invalid_request", 1),
        ('{"type": "reset", "session": "s", "id": 1, "seed": 3}', "invalid_request", 1),
        ('{"type": "step", "session": "s", "id": 1, "action": {"kind": "jump"}}', "invalid_request", 1),
        ('{"type": "step", "session": "s", "id": 1, "action": {"kind": "calls"}}', "invalid_request", 1),
        ('{"type": "reset", "session": "other", "id": 1}', "unknown_session", 1),
        ("x" * (MAX_FRAME + 1), "too_large", None),
        (b"{}", "invalid_request", None),
    ],
    ids=lambda value: value[:60] if isinstance(value, str | bytes) else None,
)
async def test_a_bad_frame_gets_a_typed_fault_and_the_session_lives_on(
    client: Raw, frame: str | bytes, code: str, request_id: int | None
) -> None:
    await (client.socket.send_bytes(frame) if isinstance(frame, bytes) else client.socket.send_str(frame))
    answer = await client.get()
    assert (answer["type"], answer["id"], answer["fault"]["code"]) == ("fault", request_id, code)
    assert answer["fault"]["remedy"]
    assert (await client.ask(type="step", action=WRITE))["step"]["view"]["content"][0]["text"] == "ok"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"type": "step", "action": {"kind": "jump"}}, "action = {'kind': 'jump'}: "),
        ({"type": "reset", "session": "../s"}, "reset.session = '../s': "),
        ({"type": "snapshot", "name": "x" * 500}, f"snapshot.name = '{'x' * 76}...: "),
        ({"type": "fork", "twins": 3}, "fork.twins = 3: "),
        ({"type": "fork"}, "fork.twins: "),
    ],
)
async def test_a_wrong_value_is_named_with_its_field(client: Raw, request_: Json, message: str) -> None:
    assert message in (await client.ask(**request_))["fault"]["message"]


async def test_calls_in_the_wrong_order_are_refused_and_the_session_lives_on(client: Raw) -> None:
    assert await client.code(type="reset") == "wrong_order"
    assert (await client.open())["fault"]["code"] == "duplicate_session"
    await client.open("fresh")
    assert await client.code(type="step", session="fresh", action=WRITE) == "wrong_order"
    assert await client.code(type="fork", session="fresh", twins=["t"]) == "wrong_order"
    assert await client.code(type="fork", twins=["t", "t"]) == "duplicate_session"
    assert await client.code(type="fork", twins=["fresh"]) == "duplicate_session"
    assert (await client.ask(type="step", action={"kind": "finish"}))["step"]["end"] == "submitted"
    assert await client.code(type="step", action=WRITE) == "ended"
    assert await client.code(type="conclude", end="submitted") == "ended"
    assert await client.code(type="fork", twins=["t"]) == "ended"
    assert (await client.ask(type="close"))["type"] == "closed"
    assert (await client.ask(type="close"))["type"] == "closed", "closing twice is harmless"
    assert await client.code(type="step", action=WRITE) == "unknown_session"


async def test_replies_come_as_they_are_ready_and_a_closed_session_answers_what_it_was_doing(
    client: Raw,
) -> None:
    await client.open("other")
    await client.ask(type="reset", session="other")
    await client.socket.send_json({"id": 1, "type": "step", "session": "s", "action": HANG})
    assert await client.code(type="step", action=WRITE) == "running"
    assert await client.code(type="conclude", end="submitted") == "running"
    assert "step" in await client.ask(type="step", session="other", action=WRITE)
    await client.socket.send_json({"id": 2, "type": "close", "session": "s"})
    answers = {answer["id"]: answer for answer in (await client.get(), await client.get())}
    assert answers[1]["fault"]["code"] == "closed"
    assert answers[2]["type"] == "closed"


async def test_an_agents_token_may_step_its_session_and_nothing_else() -> None:
    async with serving(TOKEN) as server, raw(server, TOKEN) as trainer:
        info = (await trainer.open())["info"]
        await trainer.open("other")
        await trainer.ask(type="reset")
        async with raw(server, info["agent_token"]) as agent:
            refused: list[Json] = [
                {"type": "reset"},
                {"type": "conclude", "end": "submitted"},
                {"type": "fork", "twins": ["t"]},
                {"type": "close"},
                {"type": "open", "env": {"name": "test/pad"}, "task": {"kind": "seed"}},
                {"type": "step", "session": "other", "action": WRITE},
                {"type": "attach", "session": "other"},
                {"type": "step", "session": "no-such", "action": WRITE},
            ]
            for request in refused:
                assert await agent.code(**request) == "forbidden"
            seen = (await agent.ask(type="attach"))["info"]
            assert (seen["ref"], seen["agent_token"]) == (None, None)
            assert seen["view"]["tools"]
            step = (await agent.ask(type="step", action=WRITE))["step"]
            assert step["record"] is None
            done = (await agent.ask(type="step", action={"kind": "finish"}))["step"]
            assert (done["record"], done["end"]) == (None, "submitted")
            await trainer.ask(type="close")
            await trainer.open("s")
            await trainer.ask(type="reset")
            assert await agent.code(type="step", action=WRITE) == "unknown_session", "a namesake"
        with pytest.raises(WSServerHandshakeError):
            async with raw(server, info["agent_token"]):
                pass


async def test_the_agents_side_of_the_client() -> None:
    async with (
        serving(TOKEN) as server,
        connect(server.url, token=TOKEN) as envs,
        envs.open("test/pad") as env,
    ):
        await env.reset()
        with pytest.raises(UsageError, match="agent's token"):
            await envs.attach()
        async with connect(server.url, token=env.agent_token) as side, await side.attach() as own:
            assert own.info.view is not None
            assert own.info.view.tools[0].name == "write"
            step = await own.step(call("write", line="x"))
            assert (step.view.text, step.record) == ("ok", None)
            with pytest.raises(UsageError, match="agent may not call reset"):
                await own.reset()
            with pytest.raises(UsageError, match="agent may not call open"):
                async with side.open("test/pad"):
                    pass
        last = await env.step(FinishAction())
        assert last.record is not None
        assert (last.record.turn, env.score) == (1, 1.0), "the session outlives the agent's connection"


async def test_who_gets_in() -> None:
    async with serving(TOKEN) as server, serving() as free:
        for url, wrong in ((server.url, None), (server.url, "guessed"), (free.url, "stale")):
            with pytest.raises(UsageError, match="token"):
                async with connect(url, token=wrong):
                    pass
        for broken in ("", "two words", "new\nline", "é"):
            with pytest.raises(UsageError, match="token"):
                async with connect(server.url, token=broken):
                    pass
        for header in (
            {"Origin": "http://evil.example"},
            {"Host": "evil.example"},
            {"Authorization": "Basic x"},
        ):
            with pytest.raises(WSServerHandshakeError) as refused:
                async with raw(free, **header):
                    pass
            assert refused.value.status in (401, 403)
        async with raw(free, Origin=free.url), raw(server, TOKEN, Origin="http://evil.example"):
            pass


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Host: localhost\r\nAuthorization: Bearer \xff\xfe", 401),
        (b"Host: localhost\r\nAuthorization: Bearer", 401),
        (b"Host: localhost\r\nOrigin: http://[", 403),
        (b"Host: [", 403),
        (b"Host: localhost", 200),
    ],
)
async def test_headers_of_any_kind_get_an_answer(headers: bytes, status: int) -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        request = f"GET {PATH}/environments HTTP/1.1\r\n".encode()
        writer.write(request + headers + b"\r\nConnection: close\r\n\r\n")
        assert (await reader.readline()).split()[1] == str(status).encode()
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_beyond_loopback_a_token_is_needed(host: str) -> None:
    for none in (None, Tokens()):
        with pytest.raises(UsageError, match="token"):
            EnvServer(["test/pad"], host=host, token=none)
    EnvServer(["test/pad"], host=host, token=TOKEN)


async def test_what_there_is_over_http() -> None:
    async with serving(TOKEN) as server, ClientSession() as http:

        async def get(path: str, token: str | None = None, method: str = "GET") -> tuple[int, Json]:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            async with http.request(method, server.url + path, headers=headers) as answer:
                return answer.status, await answer.json()

        assert await get("/health") == (200, {"status": "healthy"})
        status, listed = await get(f"{PATH}/environments", TOKEN)
        (pad,) = listed["environments"]
        assert (status, listed["protocol"], pad["name"]) == (200, 1, "test/pad")
        assert pad["milestones"] == ["begun", "full"]
        assert pad["channels"] == {"outcome": 0, "validity": 1, "length": 2}
        assert pad["splits"] == {"train": 3, "validation": 3, "test": 3}
        assert pad["options"]["properties"]["fault"]["type"] == "string"
        assert await get(f"{PATH}/environments/test/pad", TOKEN) == (200, pad)
        async with connect(server.url, token=TOKEN) as envs, envs.open("test/pad") as env:
            for path, token, expected in (
                (f"{PATH}/environments", None, (401, "unauthorized")),
                (f"{PATH}/environments", env.agent_token, (403, "forbidden")),
                (f"{PATH}/environments/test/pat", TOKEN, (404, "not_found")),
                (f"{PATH}/nowhere", TOKEN, (404, "not_found")),
                (PATH, TOKEN, (400, "invalid_request")),
            ):
                status, fault = await get(path, token)
                assert (status, fault["code"]) == expected
        assert (await get("/health", method="POST"))[0] == 405


# ---------------------------------------------------------------- bounds


async def test_a_call_beyond_its_deadline_is_cut_off_and_ends_its_session_alone(
    client: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.open("other")
    await client.ask(type="reset", session="other")
    with monkeypatch.context() as patch:
        patch.setattr("turnwise.envs.serving.service.answer_seconds", lambda *_: 0.05)
        assert await client.code(type="step", action=HANG) == "deadline"
    assert await client.code(type="step", action=WRITE) == "deadline"
    assert "step" in await client.ask(type="step", session="other", action=WRITE)
    assert (await client.ask(type="close"))["type"] == "closed"


async def test_a_connection_with_too_many_requests_is_told_so_and_may_still_close(
    client: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwise.envs.serving.connection.MAX_PENDING", 1)
    await client.socket.send_json({"id": 1, "type": "step", "session": "s", "action": HANG})
    assert await client.code(type="attach") == "busy"
    await client.socket.send_json({"id": 2, "type": "close", "session": "s"})
    assert {(await client.get())["id"], (await client.get())["id"]} == {1, 2}


async def test_a_client_that_takes_in_nothing_is_given_up_and_delays_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("turnwise.envs.serving.outbox.SEND_SECONDS", 0.3)
    async with (
        serving(envs=("test/wordy", "test/pad"), sessions=2, lease=0.1) as server,
        connect(server.url) as envs,
        envs.open("test/pad") as env,
        raw(server) as slow,
    ):
        await env.reset()
        await slow.ask(type="open", env={"name": "test/wordy"}, task={"kind": "seed"})
        for _ in range(64):
            await slow.socket.send_json({"id": 100, "type": "attach", "session": "s"})
        assert (await env.step(call("write", line="x"))).view.text == "ok"
        async with envs.open("test/pad") as other:  # as soon as the slow one's place is free
            assert (await other.reset()).text == "write"


async def test_who_leaves_while_opening_holds_no_place() -> None:
    async with serving(sessions=1) as server:
        for _ in range(10):  # and says goodbye
            async with raw(server) as hasty:
                request = {"type": "open", "env": {"name": "test/pad"}, "task": {"kind": "seed"}}
                await hasty.socket.send_json({"id": 1, "session": "s"} | request)
        async with connect(server.url) as envs, envs.open("test/pad") as env:
            assert (await env.reset()).text == "write"
