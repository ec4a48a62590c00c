"""A client's connection to a server, made anew when it drops.

While the client may return (see :mod:`turnwise.envs.serving.lease`), it tries to, more and more slowly, and
then sends what was not answered once more. Who asks notices nothing but the time; only an ``open``, which
another worker can answer as well, fails at once. When the lease is over, or the sessions are known to be
gone, all else fails too, and it goes on trying to begin anew. Whatever goes wrong is a
:class:`~turnwise.envs.serving.dialler.ServerFailed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import inf
from socket import SHUT_RDWR
from typing import TYPE_CHECKING

from pydantic import ValidationError

from turnwise.envs.errors import UsageError
from turnwise.envs.serving.dialler import Dialler, Gone, ServerFailed
from turnwise.envs.serving.faults import MAX_FRAME, Code
from turnwise.envs.serving.outbox import Outbox, in_turn
from turnwise.envs.serving.wire import Reply, Request, Welcome, read_reply
from turnwise.sandbox.ending import to_the_end

if TYPE_CHECKING:
    from aiohttp import ClientWebSocketResponse

logger = logging.getLogger(__name__)

PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between attempts to return: the first, doubled each time up to the other."""
STOPS = 1001
"""The code with which a server closes that stops: nobody need return."""
PASSING = ("open", "close")
"""Requests that nobody waits for while the client is away."""


class Away(ServerFailed):
    """There is no connection now. The client tries to return."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was not yet answered."""

    frame: bytes
    passing: bool
    """Nobody waits for it while the client is away."""
    reply: asyncio.Future[Reply]


class Link:
    """A client's standing with one of a server's workers. Use it as :func:`linked` gives it."""

    _outbox: Outbox

    def __init__(self, dialler: Dialler, welcome: Welcome) -> None:
        self.url, self.welcome = dialler.url, welcome
        self.up = False
        """Whether there is a connection now."""
        self.over = False
        """Whether there will be none any more."""
        self.attempts = 0
        """Attempts to connect that were begun."""
        self.failed = 0
        """Which of them failed last, counted from 1."""
        self._dialler = dialler
        self._socket: ClientWebSocketResponse | None = None
        self._ids = count()
        self._asked: dict[int, Asked] = {}
        self._lost: str | None = f"{self.url} was not reached"
        """Why nothing can be asked before there is a new lease."""
        self._code: Code | None = None
        """The same for programs, where what was open is known to be gone."""
        self._missed = False
        """That it is away was logged."""
        self._since = 0.0
        """When the connection was made."""
        self._end: float | None = None
        self._pause = PAUSE
        """When a client that is away gives up, and how long it waits before the next attempt; kept until a
        reply comes or a connection lasts, so that one that is made and drops at once does not count."""
        self._why = "it does not last"
        """What the last attempt failed by; a string, as an exception would keep the socket for its frames."""

    @property
    def lost(self) -> bool:
        """Whether nothing can be asked before there is a new lease."""
        return self._lost is not None

    def next_id(self) -> int:
        """A request's number."""
        return next(self._ids)

    async def ask(self, request: Request, seconds: float) -> Reply:
        """Send a request and wait for its reply. Raises :class:`ServerFailed`, for one of :data:`PASSING`
        :class:`Away` while there is no connection, and ``UsageError`` for a request too large."""
        asked = self._ask(request, passing=request.type in PASSING)
        try:
            if asked.passing and not self.up:
                raise self._away()
            async with asyncio.timeout(seconds):
                await self._outbox.send(asked.frame, alone=len(self._asked) == 1)
                await self._outbox.room()
                return await asked.reply
        except TimeoutError:
            raise ServerFailed(f"{self.url} did not answer within {seconds:g} s") from None
        finally:
            self._asked.pop(request.id, None)

    async def tell(self, request: Request, seconds: float) -> None:
        """As :meth:`ask`, but while the client is away nobody waits: it is sent when it returns."""
        try:
            await self.ask(request, seconds)
        except Away:
            self._ask(request, passing=False)

    def _ask(self, request: Request, *, passing: bool) -> Asked:
        frame = request.__pydantic_serializer__.to_json(request)
        if len(frame) > MAX_FRAME:
            raise UsageError(f"{request.type}: {len(frame):,} bytes are more than a frame may have")
        if self._lost is not None:
            raise ServerFailed(self._lost, self._code)
        asked = Asked(frame, passing, asyncio.get_running_loop().create_future())
        self._asked[request.id] = asked
        return asked

    def _away(self) -> Away:
        return Away(f"the connection to {self.url} dropped")

    # -- the connection

    async def serve(self) -> None:
        """Hand replies to who waits for them, and connect again as often as the connection drops."""
        reason = f"the connection to {self.url} was closed"
        try:
            while True:
                while not self.up:
                    await self._return()
                async with self._outbox:
                    await self._receive()
                self._drop()
        except ValidationError as error:
            reason = f"{self.url} sent what is not of this protocol: {error.errors()[0]['msg']}"
        except ServerFailed as error:
            reason = str(error)
        except UsageError as error:
            reason = self._lost_by(str(error))
        finally:
            await self.close(reason)

    async def close(self, reason: str) -> None:
        """Say goodbye: the server need not wait for the client's return. Closing twice is harmless."""
        self.up, self.over = False, True
        self._give_up(reason)
        if self._socket is not None:
            await self._socket.close()

    async def _receive(self) -> None:
        assert self._socket is not None
        async for message in self._socket:
            if isinstance(message.data, Exception):
                break
            if not isinstance(message.data, str):
                raise ServerFailed(f"{self.url} sent what is not of this protocol: a frame that is not text")
            async for line in in_turn(message.data):
                self._deliver(read_reply(line))

    def _deliver(self, reply: Reply) -> None:
        asked = self._asked.pop(-1 if reply.id is None else reply.id, None)
        if asked is not None and not asked.reply.done():  # else whoever asked was cancelled
            asked.reply.set_result(reply)
        self._end, self._pause = None, PAUSE

    def _drop(self) -> None:
        """The connection dropped: the client may be away for a lease, unless the server stops."""
        assert self._socket is not None
        now, stops = asyncio.get_running_loop().time(), self._socket.close_code == STOPS
        self.up = False
        if now - self._since > LONGEST_PAUSE:
            self._end, self._pause = None, PAUSE
        if self._end is None:
            self._end = now + self.welcome.lease_seconds
        self._why = "it does not last"
        self._miss("it stops" if stops else "the connection dropped")
        for number in [number for number, asked in self._asked.items() if asked.passing]:
            self._fail(number, self._away())
        if stops:
            self._give_up(f"{self.url} stops")
        self._dialler.notify()

    async def _return(self) -> None:
        """Try to connect after a while. Raises ``UsageError`` where another attempt is in vain."""
        if self._left() < self._pause:
            self._give_up(self._lost_by(self._why))
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        await self.connect()

    def _left(self) -> float:
        """The seconds within which the client has to return, where there is something to return to."""
        return inf if self.lost or self._end is None else self._end - asyncio.get_running_loop().time()

    async def connect(self) -> None:
        """Try to connect; a failure is noted. Raises ``UsageError`` where another attempt is in vain."""
        lease, worker = None if self.lost else self.welcome.lease, self.welcome.worker
        self.attempts += 1
        try:
            socket, welcome = await self._dialler.dial(lease=lease, worker=worker, seconds=self._left())
        except ServerFailed as failure:
            self.failed, self._why = self.attempts, str(failure)
            self._miss(self._why)
            gone = isinstance(failure, Gone)
            if gone or self._end is None:  # the latter: it was never reached
                self._give_up(self._lost_by(self._why), Code.GONE if gone else None)
            self._dialler.notify()
        else:
            if lease is not None and lease != welcome.lease:
                self._give_up(f"{self.url} has given up this client's sessions", Code.GONE)
            self.use(socket, welcome)

    def use(self, socket: ClientWebSocketResponse, welcome: Welcome) -> None:
        """There is a connection. What was not answered is sent once more."""
        self._socket, self._outbox, self.welcome = socket, Outbox(socket, partial(_cut, socket)), welcome
        self.up, self._lost, self._since = True, None, asyncio.get_running_loop().time()
        if self._missed:
            logger.warning("Worker %d of %s is back", welcome.worker, self.url)
        self._missed = False
        for asked in self._asked.values():
            self._outbox.put(asked.frame)
        self._dialler.notify()

    def _miss(self, why: str) -> None:
        if not self._missed:
            logger.warning("Worker %d of %s is away: %s", self.welcome.worker, self.url, why)
        self._missed = True

    def _lost_by(self, why: str) -> str:
        return f"the connection to {self.url} is lost: {why}"

    def _give_up(self, reason: str, code: Code | None = None) -> None:
        """Nothing that was asked will be answered, and what was open there is nobody's."""
        self._lost, self._code = reason, code
        for number in tuple(self._asked):
            self._fail(number, ServerFailed(reason, code))
        self._dialler.notify()

    def _fail(self, number: int, failure: ServerFailed) -> None:
        reply = self._asked.pop(number).reply
        if not reply.done():
            reply.set_exception(failure)
            reply.exception()  # for some nobody waits


def _cut(socket: ClientWebSocketResponse) -> None:
    """Cut a connection; who reads from it learns that."""
    way = socket.get_extra_info("socket")
    if way is not None:
        with contextlib.suppress(OSError):  # it is cut already
            way.shutdown(SHUT_RDWR)


@asynccontextmanager
async def linked(dialler: Dialler, like: Welcome | None = None) -> AsyncIterator[Link]:
    """A link to a server, or to the worker that ``like`` names, which may be away. Raises what ``dial`` does,
    in the second case ``UsageError`` alone."""
    if like is None:
        socket, welcome = await dialler.dial()
        link = Link(dialler, welcome)
        link.use(socket, welcome)
    else:
        link = Link(dialler, like)
        await link.connect()
    serving = asyncio.create_task(link.serve(), name=f"reader of {link.url}")
    try:
        yield link
    finally:
        serving.cancel()
        await to_the_end(_end(link, serving))
    if not serving.cancelled():
        await serving  # a fault of ours, if anything


async def _end(link: Link, serving: asyncio.Task[None]) -> None:
    await asyncio.wait([serving])
    await link.close(f"the connection to {link.url} was closed")
