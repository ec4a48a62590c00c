"""The owner's half of ``expose``: accept inside, connect outside, copy bytes both ways.

The listening socket was bound inside the sandbox and sent here, so there is no mount and no network.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from turnwise.sandbox.acceptor import Acceptor

_CHUNK = 1 << 16


class Relay(Acceptor):
    """Serves ``listener`` from ``endpoint`` until closed."""

    def __init__(self, listener: socket.socket, endpoint: Path) -> None:
        super().__init__(listener, self._connection)
        self.endpoint = endpoint

    async def _connection(self, inside: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as outside:
            outside.setblocking(False)
            try:
                await loop.sock_connect(outside, str(self.endpoint))
                async with asyncio.TaskGroup() as group:
                    group.create_task(_copy(inside, outside))
                    group.create_task(_copy(outside, inside))
            except* OSError:
                pass  # refused, or broken off: the agent sees its connection end


async def _copy(source: socket.socket, target: socket.socket) -> None:
    """One direction, to its end, which is passed on."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _CHUNK):
        await loop.sock_sendall(target, data)
    target.shutdown(socket.SHUT_WR)
