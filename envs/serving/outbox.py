"""What is to be sent over a WebSocket: the messages of one moment go together, in one frame, a line each.

A frame costs far more than a message: a system call here, another there and a waking of whoever waits. With
many sessions on a connection there are many messages in every moment. Who reads takes a frame's messages a
few at a time (:func:`in_turn`), so that the first replies are on their way while it is busy with the rest,
and both sides work at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, Self

from turnwise.envs.serving.faults import MAX_FRAME
from turnwise.envs.within import Overdue, within

if TYPE_CHECKING:
    from aiohttp import WSMsgType

logger = logging.getLogger(__name__)

SEND_SECONDS = 30.0
"""A peer that takes in nothing for so long is given up."""


FRAME = 64 << 10
"""Bytes of messages that go together; a larger one goes alone."""
AT_ONCE = 8
"""Messages taken at a time."""


async def in_turn(frame: str) -> AsyncIterator[str]:
    """The messages of a frame; after every few of them others get their turn."""
    lines = frame.split("\n")
    for number, line in enumerate(lines, 1):
        yield line
        if number % AT_ONCE == 0 and number < len(lines):
            await asyncio.sleep(0)


class Socket(Protocol):
    """Either end of a WebSocket."""

    def send_frame(self, message: bytes, opcode: WSMsgType) -> Coroutine[Any, Any, None]:
        """Send a frame. Raises ``ConnectionError``."""
        ...


class Outbox:
    """Messages on their way. They are sent from ``async with`` to its end."""

    def __init__(self, socket: Socket, give_up: Callable[[], None]) -> None:
        """``give_up`` cuts the connection to a peer that takes in nothing."""
        self.dead = False
        """The peer takes in nothing more: it is gone, which whoever reads learns as well, or stuck."""
        self._socket, self._give_up = socket, give_up
        self._messages: list[bytes] = []
        self._size = 0
        self._filled, self._emptied = asyncio.Event(), asyncio.Event()
        self._emptied.set()
        self._writer: asyncio.Task[None] | None = None

    async def send(self, message: bytes, *, alone: bool) -> None:
        """Send a message: at once where it is ``alone``, no other being expected, and soon where not."""
        if alone and not self._messages:
            await self._transmit(message)
        else:
            self.put(message)

    def put(self, message: bytes) -> None:
        """Send a message soon; to a dead peer it is dropped."""
        if self.dead:
            return
        self._messages.append(message)
        self._size += len(message)
        self._filled.set()
        if self._size > MAX_FRAME:
            self._emptied.clear()

    async def room(self) -> None:
        """Wait while too much is on its way already."""
        await self._emptied.wait()

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._writer is not None
        self._writer.cancel()
        await asyncio.wait([self._writer])
        self._die()  # the writer does not where it never began

    async def _write(self) -> None:
        try:
            while not self.dead:
                await self._filled.wait()
                await self._transmit(self._take())
        finally:
            self._die()

    async def _transmit(self, frame: bytes) -> None:
        from aiohttp import WSMsgType

        try:
            await within(SEND_SECONDS, self._socket.send_frame(frame, WSMsgType.TEXT))
        except ConnectionError:
            self._die()
        except Overdue:
            logger.warning("A peer took in nothing for %g s and is given up", SEND_SECONDS)
            self._die()
            self._give_up()

    def _die(self) -> None:
        self.dead = True
        self._messages.clear()
        self._emptied.set()

    def _take(self) -> bytes:
        """The next frame."""
        size = count = 0
        while count < len(self._messages) and (count == 0 or size + len(self._messages[count]) <= FRAME):
            size += len(self._messages[count])
            count += 1
        frame = b"\n".join(self._messages[:count])
        del self._messages[:count]
        self._size -= size
        if not self._messages:
            self._filled.clear()
        if self._size <= MAX_FRAME:
            self._emptied.set()
        return frame
