"""What the tests of OpenEnv's protocol share: an environment, a server, and a client that is nobody's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

from turnwise.envs.env import Env
from turnwise.envs.registry import register
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.serving.tokens import Tokens
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import ToolError, milestone, tool
from turnwise.envs.types import AgentView, EpisodeLimits, ImageBlock, Task, TaskSecret, TextBlock, text

Json = dict[str, Any]
PNG = bytes(range(256))
GOLD = "the-golden-answer"


@register
class Abacus(Env):
    """Add up to a number. Say something to be answered."""

    name = "test/abacus"
    limits = EpisodeLimits(turns=6, tool_seconds=20.0)
    waiting: asyncio.Event
    """Set when ``wait`` is being carried out."""
    go_on: asyncio.Event

    def tasks(self, split: str) -> TaskSet:
        plain = seeds(split, 5)

        def make(index: int, env: str) -> Task:
            return plain.make(index, env).model_copy(update={"secret": TaskSecret(data={"gold": GOLD})})

        return TaskSet(plain.split, 5, make)

    async def reset(self, task: Task) -> AgentView:
        self.total, self.goal = 0, task.rng.randint(3, 9)
        return AgentView(
            content=(TextBlock(text=f"reach {self.goal}"), ImageBlock(media_type="image/png", data=PNG))
        )

    @tool
    async def add(self, n: int) -> str:
        """Add a number."""
        self.total += n
        return str(self.total)

    @tool
    def refuse(self) -> str:
        """Never works."""
        raise ToolError("not today")

    @tool
    async def wait(self) -> str:
        """Returns when the test says so."""
        Abacus.waiting.set()
        await Abacus.go_on.wait()
        return "waited"

    @tool
    def broken(self) -> str:
        """A bug."""
        raise ZeroDivisionError("a bug")

    @tool
    def infinite(self) -> AgentView:
        """A picture."""
        return AgentView(content=(TextBlock(text="see"), ImageBlock(media_type="image/png", data=PNG)))

    async def said(self, words: str) -> str | None:
        return "hello" if words == "hi" else None

    @milestone
    def begun(self) -> bool:
        return self.total > 0

    async def grade(self) -> float:
        return float(self.total == self.goal)


@register
class Mute(Env):
    """It cannot be talked to, and has a way to finish of its own."""

    name = "test/mute"

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 2)

    async def reset(self, task: Task) -> AgentView:
        if task.ref.seed == 1:
            raise ZeroDivisionError("no start")
        return text("go")

    @tool(submits=True)
    def finish(self, how: str) -> str:
        """Its own."""
        return f"finished {how}"

    async def grade(self) -> float:
        return 1.0


@register
class Hopeless(Abacus):
    """It has no tasks."""

    name = "test/hopeless"

    def tasks(self, split: str) -> TaskSet:
        raise ZeroDivisionError("no tasks")


class Wire:
    """A WebSocket, in and out of JSON."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket = socket

    async def send(self, message: Json | str | bytes) -> None:
        """A frame."""
        if isinstance(message, bytes):
            await self.socket.send_bytes(message)
        else:
            await self.socket.send_str(message if isinstance(message, str) else json.dumps(message))

    async def get(self) -> Json:
        """The next frame."""
        answer: Json = await self.socket.receive_json()
        return answer

    async def ask(self, kind: str, data: Json | None = None) -> Json:
        """A frame and its reply."""
        await self.send({"type": kind} if data is None else {"type": kind, "data": data})
        return await self.get()

    async def call(self, tool_name: str, **arguments: Any) -> Json:
        """What a step with a call of a tool is answered with."""
        answer = await self.ask("step", {"tool_name": tool_name, "arguments": arguments})
        assert answer["type"] == "observation", answer
        return answer["data"]  # type: ignore[no-any-return]

    async def error(self, message: Json | str | bytes) -> Json:
        """What is wrong with a frame."""
        await self.send(message)
        answer = await self.get()
        assert (answer["type"], set(answer)) == ("error", {"type", "data"}), answer
        assert isinstance(answer["data"]["message"], str)
        return answer["data"]  # type: ignore[no-any-return]

    async def closed(self, code: int = 1000) -> None:
        """The other side closes, and says no more."""
        message = await self.socket.receive()
        assert message.type is WSMsgType.CLOSE, message
        assert message.data == code


class Served:
    """A server and what it is asked."""

    def __init__(self, server: EnvServer, http: ClientSession) -> None:
        self.server, self.http = server, http
        self.url = server.url
        self.abacus, self.gold = Abacus, GOLD

    @asynccontextmanager
    async def wire(self, path: str = "/ws", autoping: bool = True, **headers: str) -> AsyncIterator[Wire]:
        """A connection."""
        async with self.http.ws_connect(
            self.url + path, headers=headers, max_msg_size=0, autoping=autoping
        ) as socket:
            yield Wire(socket)

    async def until_there_is_room(self) -> None:
        """Whose connection is closed gives up its place a little later."""
        while self.server._roster.full:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Status and JSON."""
        async with self.http.get(self.url + path, headers=headers) as answer:
            return answer.status, await answer.json()

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON; a string is sent as it is."""
        data = body if isinstance(body, str) or body is None else json.dumps(body)
        async with self.http.post(self.url + path, data=data, headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith(("{", "[")) else text

    async def rpc(self, method: str, params: Json | None = None, **headers: str) -> Json:
        """The reply to a JSON-RPC request over HTTP."""
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params or {}}
        status, reply = await self.post("/mcp", body, **headers)
        assert (status, reply["jsonrpc"], reply["id"]) == (200, "2.0", 7)
        assert ("result" in reply) != ("error" in reply)
        return reply  # type: ignore[no-any-return]


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Starts a server of some environments, which gives whom it refuses all the time to say something."""
    monkeypatch.setattr("turnwise.envs.openenv.sockets.HOLD_SECONDS", 100.0)

    @asynccontextmanager
    async def start(
        *envs: str, token: str | Tokens | None = None, sessions: int = 8
    ) -> AsyncIterator[Served]:
        Abacus.waiting, Abacus.go_on = asyncio.Event(), asyncio.Event()
        names = envs or ("test/abacus",)
        async with (
            asyncio.timeout(120),
            EnvServer(names, port=0, token=token, sessions=sessions, patience=100.0) as server,
            ClientSession() as http,
        ):
            yield Served(server, http)

    return start


@pytest.fixture
async def served(serve: Serve) -> AsyncIterator[Served]:
    """A server of one environment."""
    async with serve() as served:
        yield served


@pytest.fixture
async def wire(served: Served) -> AsyncIterator[Wire]:
    """A connection to it."""
    async with served.wire() as wire:
        yield wire
