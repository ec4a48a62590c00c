"""A server of several worker processes behind one address.

The front listens, looks at the head of a connection's first request without taking it out of the socket,
and passes the connection on, as a file descriptor, to the worker that the request leads to or to the one
with the fewest connections. From then on it has no part in it: no byte of a session goes through here. A
worker that dies takes its sessions with it and is replaced; till then whoever wants back to one of them is
told that it is gone (410).

It looks into plain connections only; for TLS put a proxy before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Self

from turnwise.envs.errors import UsageError
from turnwise.envs.serving.background import Background
from turnwise.envs.serving.folder import own_folder
from turnwise.envs.serving.hosts import cannot_listen
from turnwise.envs.serving.journal import Journal
from turnwise.envs.serving.logs import Level, Style
from turnwise.envs.serving.routing import END, MAX_HEAD, Replica, leads_back, worker_of
from turnwise.envs.serving.server import SESSIONS, EnvServer
from turnwise.envs.serving.worker import MAX_MESSAGE, run_worker
from turnwise.sandbox.acceptor import readable
from turnwise.sandbox.interrupts import interrupts_blocked

logger = logging.getLogger(__name__)

START_SECONDS = 300.0
"""How long a worker may take to be ready, on a machine that is busy with other things too."""
GRACE_SECONDS = 30.0
"""How long one may take to close its sessions, before it is killed."""
RESTART_SECONDS = 1.0
"""Between a worker's death and its successor's start."""
HEAD_SECONDS = 10.0
"""How long a client may take to send its first request's head."""
LOOK_SECONDS = 0.01
"""Between two looks at a head that is not whole yet."""
MOST_WORKERS = 256
STARTING_PER_CORE = 2
"""Workers that start at the same time: each is busy for a second or more."""
BACKLOG = 1024
GONE = b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(slots=True, eq=False)
class Worker:
    """A worker process as the front sees it."""

    index: int
    process: SpawnProcess
    control: socket.socket
    handed: int = 0
    ended: int = 0
    drained: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def connections(self) -> int:
        """How many it serves now."""
        return self.handed - self.ended

    async def say(self, message: str) -> None:
        """Raises ``OSError`` where it is dead."""
        await asyncio.get_running_loop().sock_sendall(self.control, message.encode())

    async def hear(self) -> str:
        """Its next words; none where it is dead."""
        with contextlib.suppress(OSError):
            return (await asyncio.get_running_loop().sock_recv(self.control, MAX_MESSAGE)).decode()
        return ""

    async def end(self, grace: float) -> None:
        """Ask it to end, and kill it where it does not in time."""
        try:
            self.process.terminate()
            await asyncio.to_thread(self.process.join, grace)
        finally:
            self.process.kill()
            self.control.close()
            await asyncio.to_thread(self.process.join)


class Front:
    """Several workers as one :class:`EnvServer`, from ``async with`` to its end."""

    def __init__(
        self,
        envs: Sequence[str],
        *,
        workers: int,
        host: str = "127.0.0.1",
        port: int = 8000,
        sessions: int = SESSIONS,
        replica: Replica = Replica(),  # noqa: B008 - it is frozen
        log: tuple[Style, Level] = ("text", "info"),
        **options: Any,
    ) -> None:
        """``options`` are those of ``EnvServer``; ``sessions`` bounds those of all workers together;
        ``replica`` says which of several such servers this is; ``log`` is how the workers write theirs.

        Raises ``UsageError`` for what that refuses, for TLS, and for fewer sessions than workers.
        """
        if workers > MOST_WORKERS:
            raise UsageError(f"workers={workers}: must be at most {MOST_WORKERS}; more are no faster")
        if not 1 <= workers <= sessions:
            raise UsageError(f"workers={workers}: must be from 1 to the number of sessions, {sessions}")
        if options.get("tls") is not None:
            raise UsageError(f"tls with workers={workers}: put a proxy that speaks TLS before them")
        each = -(-sessions // workers)
        self._log, self._options = log, {"envs": envs, "host": host, "sessions": each, **options}
        EnvServer(**self._options)  # says what is wrong with them
        self.host, self.port, self.workers = host, port, workers
        self._replica, self._numbers = replica, replica.numbers(workers)
        self.alive: dict[int, Worker] = {}
        """The workers that can be given connections, by number."""
        self._folder: Path | None = None
        self._turns = asyncio.Semaphore(STARTING_PER_CORE * (os.cpu_count() or 1))
        """To start a worker."""
        self._background = Background()
        self._stack = contextlib.AsyncExitStack()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        """Start the workers, then listen. Raises ``UsageError`` where that is not possible."""
        if self._options.get("journal") is not None:
            Journal(self._options["journal"]).make_folder()  # said once, and not by every worker
        async with contextlib.AsyncExitStack() as stack:
            listener = stack.enter_context(self._listen())
            self.port = listener.getsockname()[1]
            self._folder = stack.enter_context(own_folder())
            stack.push_async_callback(self._stop_workers)
            await self._start_workers()
            stack.push_async_callback(self._background.close)
            for index in self._numbers:
                self._background.start(self._keep(index))
            self._background.start(self._accept(listener))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening, then the workers."""
        await self._stack.aclose()

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listener = socket.create_server((self.host, self.port), family=family, backlog=BACKLOG)
        except (OSError, UnicodeError) as error:
            raise cannot_listen(self.host, self.port, error) from error
        listener.setblocking(False)
        return listener

    async def drain(self, seconds: float) -> None:
        """Take in no more sessions. Returns when those that are open have ended, or after that time."""
        workers = tuple(self.alive.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for worker in workers:
                    with contextlib.suppress(OSError):
                        await worker.say(f"drain {seconds}")
                for worker in workers:
                    await worker.drained.wait()

    # -- connections

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            self._background.start(self._pass_on(connection))

    async def _pass_on(self, connection: socket.socket) -> None:
        """Hand a connection over; the worker's copy of the descriptor keeps it open."""
        with connection:
            try:
                async with asyncio.timeout(HEAD_SECONDS):
                    head = await _peek(connection)
            except (OSError, TimeoutError):
                return
            worker = self._choose(worker_of(head))
            if worker is None:  # just being replaced
                if leads_back(head):
                    await _say_gone(connection)
                return  # others try again
            worker.handed += 1
            try:
                socket.send_fds(worker.control, [b"connection"], [connection.fileno()])
            except OSError as error:
                worker.handed -= 1
                logger.warning("Worker %d takes no connection: %s", worker.index, error)

    def _choose(self, index: int | None) -> Worker | None:
        if index is not None and index in self._numbers:
            return self.alive.get(index)
        return min(self.alive.values(), key=lambda worker: (worker.connections, worker.index), default=None)

    # -- workers

    async def _start_workers(self) -> None:
        try:
            async with asyncio.TaskGroup() as starting:
                for index in self._numbers:
                    starting.create_task(self._start(index))
        except* UsageError as failures:
            raise failures.exceptions[0] from None

    async def _start(self, index: int) -> None:
        """Start a worker in its turn and wait until it is ready. Raises ``UsageError`` where it does not come
        up."""
        async with self._turns:
            self.alive[index] = await self._started(index)

    async def _started(self, index: int) -> Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        process = multiprocessing.get_context("spawn").Process(
            target=run_worker,
            args=(theirs, self._replica.place(index, self.workers, self._folder), self._log, self._options),
            name=f"turnwise worker {index}",
        )
        with theirs, interrupts_blocked():
            process.start()
        worker = Worker(index, process, ours)
        ready, why = False, "did not start; see the log above"
        try:
            async with asyncio.timeout(START_SECONDS):
                ready = await worker.hear() == "ready"
        except TimeoutError:
            why = f"was not ready within {START_SECONDS:g} s: is the machine this busy? Try fewer --workers"
        finally:
            if not ready:
                await worker.end(grace=0.0)
        if not ready:
            raise UsageError(f"worker {index} {why}")
        return worker

    async def _keep(self, index: int) -> None:
        """Hear what a worker says, and replace it when it dies."""
        while True:
            worker = self.alive[index]
            while message := await worker.hear():
                word, _, argument = message.partition(" ")
                if word == "drained":
                    worker.drained.set()
                else:
                    worker.ended = int(argument)
            del self.alive[index]
            await worker.end(grace=0.0)
            logger.error("Worker %d died with its sessions (exit code %s)", index, worker.process.exitcode)
            while index not in self.alive:
                await asyncio.sleep(RESTART_SECONDS)
                with contextlib.suppress(UsageError):  # logged by the process itself
                    await self._start(index)
                    logger.info("Worker %d is up again, without sessions", index)

    async def _stop_workers(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for worker in self.alive.values():
                tasks.create_task(worker.end(GRACE_SECONDS))
        self.alive.clear()


async def _peek(connection: socket.socket) -> bytes:
    """What a client sent so far, once that is a whole head or as much as is looked at; it stays unread."""
    connection.setblocking(False)
    while True:
        try:
            head = connection.recv(MAX_HEAD, socket.MSG_PEEK)
        except BlockingIOError:
            await readable(connection)
            continue
        if END in head or len(head) >= MAX_HEAD or not head:
            return head
        await asyncio.sleep(LOOK_SECONDS)


async def _say_gone(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.recv(MAX_HEAD)  # left unread, it would cut off the answer
        await asyncio.get_running_loop().sock_sendall(connection, GONE)
