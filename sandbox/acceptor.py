"""Serving a listening socket: a task a connection, all of one group, which :meth:`Acceptor.close` ends."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable

MOST = 64
"""Connections open at once; further ones wait in the socket's backlog."""
_PAUSE = 0.1
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

Handle = Callable[[socket.socket], Awaitable[None]]
"""Serves one accepted connection. It closes it, and raises nothing that an agent can cause."""


class Acceptor:
    """Accepts on ``listener``, which it closes in the end, until closed."""

    def __init__(self, listener: socket.socket, handle: Handle) -> None:
        listener.setblocking(False)
        self._listener, self._handle = listener, handle
        self._slots = asyncio.Semaphore(MOST)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                await self._slots.acquire()
                accepted = await self._accept()
                group.create_task(self._one(accepted))

    async def _accept(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return (await loop.sock_accept(self._listener))[0]
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                await asyncio.sleep(_PAUSE)  # until connections, here or elsewhere, have ended

    async def _one(self, accepted: socket.socket) -> None:
        try:
            with accepted:
                await self._handle(accepted)
        finally:
            self._slots.release()

    async def close(self) -> None:
        """End every connection. Raises what ended the serving, if anything did before."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._listener.close()
        if not self._task.cancelled():
            self._task.result()
