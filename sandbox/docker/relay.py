"""The near half of ``expose``: what is said on the sandbox's sockets is said to the owner's, and back.

See :mod:`turnwise.sandbox.docker.inside.tunnels` for the far half. Everything runs in tasks of one group,
which :meth:`Relay.close` ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from turnwise.sandbox.acceptor import Handle
from turnwise.sandbox.docker.inside.tunnels import CHUNK
from turnwise.sandbox.namespaces.link import Link, Reply

Endpoint = Path | Handle
"""A Unix socket of the owner's, or what serves a connection itself."""


class Relay:
    """Serves the connections of one resident, each from the endpoint that its path was exposed for."""

    def __init__(self) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self._said: dict[int, asyncio.Queue[bytes]] = {}
        self._taken: dict[int, asyncio.Event] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._group: asyncio.Task[None] | None = None
        self._opened: asyncio.Queue[tuple[int, Endpoint]] = asyncio.Queue()
        self.link: Link | None = None

    def hear(self, news: Reply) -> None:
        """What the resident tells of a connection."""
        number, body = news.head["tunnel"], news.body
        match news.head["news"]:
            case "opened":
                self._said[number], self._taken[number] = asyncio.Queue(), asyncio.Event()
                self._opened.put_nowait((number, self.endpoints[news.head["path"]]))
                if self._group is None:
                    self._group = asyncio.create_task(self._serve(), name="sandbox relay")
            case "said" if number in self._said:
                self._said[number].put_nowait(body)
            case "taken" if number in self._taken:
                self._taken[number].set()
            case "ended" if number in self._tasks:
                self._tasks[number].cancel()

    async def close(self) -> None:
        if self._group is not None:
            self._group.cancel()
            await asyncio.wait([self._group])
            if not self._group.cancelled():
                self._group.result()

    # ------------------------------------------------------------ connections
    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                number, endpoint = await self._opened.get()
                self._tasks[number] = group.create_task(self._connection(number, endpoint))

    async def _connection(self, number: int, endpoint: Endpoint) -> None:
        try:
            async with _connected(endpoint) as sock, asyncio.TaskGroup() as group:
                group.create_task(self._from_agent(number, sock))
                group.create_task(self._to_agent(number, sock))
        except* OSError:
            pass  # refused, or broken off: the agent sees its connection end
        finally:
            for table in (self._said, self._taken, self._tasks):
                table.pop(number, None)
            self._post("tunnel_end", number)

    async def _from_agent(self, number: int, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await self._said[number].get():
            await loop.sock_sendall(sock, data)
            self._post("tunnel_taken", number)
        sock.shutdown(socket.SHUT_WR)

    async def _to_agent(self, number: int, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(sock, CHUNK):
            self._taken[number].clear()
            self._post("tunnel_data", number, data)
            await self._taken[number].wait()
        self._post("tunnel_data", number)

    def _post(self, op: str, number: int, body: bytes = b"") -> None:
        if self.link is not None:
            self.link.post(op, body, tunnel=number)


@contextlib.asynccontextmanager
async def _connected(endpoint: Endpoint) -> AsyncIterator[socket.socket]:
    if isinstance(endpoint, Path):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, str(endpoint))
            yield sock
        return
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.setblocking(False)
    async with asyncio.TaskGroup() as group:
        group.create_task(_serve(endpoint, far))
        with near:
            yield near


async def _serve(handle: Handle, sock: socket.socket) -> None:
    with sock:
        await handle(sock)
