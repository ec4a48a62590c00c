"""Serving a listening socket: a task a connection, all of one group, which :meth:`Acceptor.close` ends."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

MOST = 64
"""Connections open at once; further ones wait in the socket's backlog."""
_PAUSE = 0.1
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

Handle = Callable[[socket.socket], Coroutine[Any, Any, None]]
"""Serves one accepted connection, and raises nothing that an agent can cause."""


class Acceptor:
    """Accepts on ``listener``, which it closes in the end, until closed."""

    def __init__(self, listener: socket.socket, handle: Handle) -> None:
        listener.setblocking(False)
        self._listener, self._handle = listener, handle
        self._slots = asyncio.Semaphore(MOST)
        self._task = asyncio.get_running_loop().create_task(self._serve())
        self._task.add_done_callback(lambda _: listener.close())  # also where it never began

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                await self._slots.acquire()
                accepted = await self._accept()
                task = group.create_task(self._handle(accepted))
                task.add_done_callback(partial(self._ended, accepted))  # also where it never began

    async def _accept(self) -> socket.socket:
        """The next connection. ``sock_accept`` would lose one that comes as it is cancelled."""
        while True:
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                await readable(self._listener)
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                await asyncio.sleep(_PAUSE)  # until connections, here or elsewhere, have ended
            else:
                accepted.setblocking(False)
                return accepted

    def _ended(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        accepted.close()
        self._slots.release()

    async def close(self) -> None:
        """End every connection. Raises what ended the serving, if anything did before."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()


async def readable(waiting: socket.socket) -> None:
    """Wait until a socket that does not block has something to read or to accept."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(waiting, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(waiting)
