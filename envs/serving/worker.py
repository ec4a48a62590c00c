"""One of a server's worker processes: it is handed connections and serves them as a whole server does.

The front (:mod:`turnwise.envs.serving.front`) listens and passes each connection as a file descriptor over a
socket of the two; what the client sent is still unread in it. The same socket carries a few words. When the
front is gone, even by ``kill -9``, it ends, and so does the worker.

======================= ==============================================================
front to worker         ``connection`` with its descriptor; ``drain SECONDS``
worker to front         ``ready``; ``ended N``, connections so far; ``drained``
======================= ==============================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from typing import Any

from turnwise.envs.serving.background import Background
from turnwise.envs.serving.logs import Level, Style, writing_log
from turnwise.envs.serving.routing import Place
from turnwise.envs.serving.server import EnvServer

REPORT_SECONDS = 0.05
"""How often a worker looks whether connections ended."""
MAX_MESSAGE = 64


def run_worker(
    control: socket.socket, place: Place, log: tuple[Style, Level], options: dict[str, Any]
) -> None:
    """Serve what comes over ``control`` until SIGTERM or the front's end: the process's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the front, which tells us
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # the front had it blocked
    control.setblocking(False)
    with control, writing_log(*log, place.index):
        asyncio.run(_run(control, place, options))


async def _run(control: socket.socket, place: Place, options: dict[str, Any]) -> None:
    stop, loop, background = asyncio.Event(), asyncio.get_running_loop(), Background()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(EnvServer(place=place, **options))
        stack.push_async_callback(background.close)
        worker = Worker(control, server, background, stop)
        loop.add_reader(control, worker.hear)
        stack.callback(loop.remove_reader, control)
        background.start(worker.report())
        await stop.wait()


class Worker:
    """What a worker does with what its front says."""

    def __init__(
        self, control: socket.socket, server: EnvServer, background: Background, stop: asyncio.Event
    ) -> None:
        self._control, self._server, self._background, self._stop = control, server, background, stop
        self._adopted = 0

    def hear(self) -> None:
        """The front said something, or is gone."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self._control, MAX_MESSAGE, 1)
        except BlockingIOError:
            return
        except ConnectionError:
            message, descriptors = b"", []
        word, _, argument = message.decode().partition(" ")
        if word == "connection":
            self._background.start(self._adopt(socket.socket(fileno=descriptors[0])))
        elif word == "drain":
            self._background.start(self._drain(float(argument)))
        else:
            asyncio.get_running_loop().remove_reader(self._control)
            self._stop.set()

    async def report(self) -> None:
        """Say that this is ready, then how many connections have ended, whenever that changes."""
        await self._say("ready")
        told = 0
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            ended = self._adopted - self._server.connections  # low while one is being adopted
            if ended > told:
                told = ended
                await self._say(f"ended {ended}")

    async def _adopt(self, connection: socket.socket) -> None:
        await self._server.adopt(connection)
        self._adopted += 1

    async def _drain(self, seconds: float) -> None:
        await self._server.drain(seconds)
        await self._say("drained")

    async def _say(self, message: str) -> None:
        with contextlib.suppress(ConnectionError):  # that the front is gone is seen by who hears it
            await asyncio.get_running_loop().sock_sendall(self._control, message.encode())
