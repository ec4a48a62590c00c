"""The owner's half of ``expose``: accept inside, connect outside, copy bytes both ways.

The listening socket was bound inside the sandbox and sent here, so there is no mount and no network.
Everything runs in tasks of one group, which :meth:`Relay.close` ends. At most 64 connections are
open at once; further ones wait in the socket's backlog.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

_MOST = 64
_CHUNK = 1 << 16


class Relay:
    """Serves ``listener`` from ``endpoint`` until closed."""

    def __init__(self, listener: socket.socket, endpoint: Path) -> None:
        listener.setblocking(False)
        self.endpoint = endpoint
        self._listener = listener
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        slots = asyncio.Semaphore(_MOST)
        async with asyncio.TaskGroup() as group:
            while True:
                await slots.acquire()
                inside, _ = await loop.sock_accept(self._listener)
                group.create_task(self._connection(inside)).add_done_callback(lambda _: slots.release())

    async def _connection(self, inside: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with inside, socket.socket(socket.AF_UNIX) as outside:
            outside.setblocking(False)
            try:
                await loop.sock_connect(outside, str(self.endpoint))
                async with asyncio.TaskGroup() as group:
                    group.create_task(_copy(inside, outside))
                    group.create_task(_copy(outside, inside))
            except* OSError:
                pass  # refused, or broken off: the agent sees its connection end

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._listener.close()
        if not self._task.cancelled():
            self._task.result()


async def _copy(source: socket.socket, target: socket.socket) -> None:
    """One direction, to its end, which is passed on."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _CHUNK):
        await loop.sock_sendall(target, data)
    target.shutdown(socket.SHUT_WR)
