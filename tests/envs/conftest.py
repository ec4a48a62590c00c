"""What the tests of sessions share: an environment, and a way to a server, where everything can go wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest

from turnwise.envs.env import Env
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import register
from turnwise.envs.serving.front import Front
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import ToolError, milestone, reward, tool
from turnwise.envs.types import AgentView, EpisodeLimits, Model, Task, text
from turnwise.sandbox.contract import SandboxSpec


class PadOptions(Model):
    fault: str = ""


@register
class Pad(Env):
    """A list in this process, a file in a sandbox, and whatever can go wrong."""

    name = "test/pad"
    limits = EpisodeLimits(turns=6, observation_chars=40)
    sandbox_spec = SandboxSpec()
    Options = PadOptions
    options: PadOptions

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 3)

    async def reset(self, task: Task) -> AgentView:
        self.lines: list[str] = []
        self.rng = task.rng
        await self.sandbox.write("pad", b"")
        if self.options.fault == "reset":
            await self.sandbox.read_tree("/workspace", limit=-1)
        return text("write")

    @tool
    async def write(self, line: str) -> str:
        """Add a line."""
        self.lines.append(line)
        data = await self.sandbox.read("pad")
        await self.sandbox.write("pad", data + line.encode())
        return "ok"

    @tool
    async def show(self) -> str:
        """The list, the file and a number at random."""
        data = await self.sandbox.read("pad")
        return f"{''.join(self.lines)} {data.decode()} {self.rng.random()}"

    @tool
    def refuse(self) -> str:
        """Never works."""
        raise ToolError("not today")

    @tool
    async def hang(self) -> str:
        """Never returns."""
        await asyncio.Event().wait()
        return ""

    @tool
    async def flood(self) -> str:
        """Overstep a limit."""
        await self.sandbox.write("pad", b"x" * 100)
        await self.sandbox.read_tree("/workspace", limit=10)
        return ""

    @tool
    async def lose(self) -> str:
        """The sandbox dies."""
        await self.sandbox.close()
        await self.sandbox.read("pad")
        return ""

    @tool
    async def missing(self) -> str:
        """The environment's own bug: a file it forgot."""
        await self.sandbox.read("forgotten")
        return ""

    @tool
    def late(self) -> str:
        """A time-out that is not the session's."""
        raise TimeoutError("a server did not answer")

    @tool(submits=True)
    def hand_in(self) -> str:
        """Done."""
        if not self.lines:
            raise ToolError("nothing to hand in")
        return "thanks"

    async def said(self, words: str) -> str | None:
        return "hello" if words == "hi" else None

    @milestone
    async def begun(self) -> bool:
        if self.options.fault == "milestone":
            raise ZeroDivisionError("in a milestone")
        return await self.sandbox.read("pad") != b""

    @milestone
    def full(self) -> bool:
        return len(self.lines) >= 2

    @reward("length", level=2)
    def length(self) -> float | None:
        return float(len(self.lines)) if self.lines else None

    async def grade(self) -> float:
        match self.options.fault:
            case "grade":
                raise KeyError("in grade")
            case "score":
                return 2.0
            case "lost":
                await self.sandbox.close()
            case "big":
                await self.sandbox.read_tree("/workspace", limit=-1)
        return float(await self.sandbox.read("pad") != b"")


@pytest.fixture
async def envs() -> AsyncIterator[LocalEnvs]:
    async with LocalEnvs(backend="process", capacity=2) as envs:
        yield envs


Fate = Literal["pass", "double", "lose", "mute"]
"""What happens to what a client sends: it arrives, twice, not, or without a way back for the reply."""


class Relay:
    """A way to a server that loses things, as networks do."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends: list[asyncio.StreamWriter] = []
        self.fates: deque[Fate] = deque()
        """Of the frames that the client sends next; then all of them pass."""
        self.open = True
        """Whether new connections get through."""
        self.stuck = asyncio.Event()
        """Until this is set, what the client sends from a first step on is not taken in."""
        self.stuck.set()
        self.url = ""

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._ends) // 2

    def cut(self) -> None:
        for end in self._ends:
            end.transport.abort()
        self._ends.clear()

    async def there(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while await self.stuck.wait() and (data := await source.read(1 << 16)):
            fate = "pass" if data.startswith(b"GET ") or not self.fates else self.fates.popleft()
            if fate != "lose":
                sink.write(data * (2 if fate == "double" else 1))
                await sink.drain()
            if fate in ("lose", "mute"):
                return

    async def back(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            sink.write(data)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            writer.transport.abort()
            return
        source, sink = await asyncio.open_connection("127.0.0.1", self._port)
        self._ends += [writer, sink]
        ways = [asyncio.create_task(self.there(reader, sink)), asyncio.create_task(self.back(source, writer))]
        with contextlib.suppress(ConnectionError):
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        writer.transport.abort()  # nothing more comes back,
        sink.close()  # but what was sent arrives
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


@asynccontextmanager
async def relay(server: EnvServer | Front) -> AsyncIterator[Relay]:
    way = Relay(server.port)
    async with await asyncio.start_server(way.accept, "127.0.0.1", 0) as listener:
        way.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        yield way
        way.cut()
