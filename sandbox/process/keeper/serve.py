"""The keeper's loop: one socket to the owner, one selector, many children."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

from turnwise.sandbox.process.keeper.commands import (
    PR_SET_CHILD_SUBREAPER,
    children,
    execute,
    init,
    kill,
    prctl,
)
from turnwise.sandbox.process.keeper.jobs import CHUNK, Job, Request, Shell
from turnwise.sandbox.process.keeper.trees import attempt, remove, search

HEADER = struct.Struct(">II")
"""A frame is the lengths of its JSON head and of its body, the head, the body."""

LAST_WORDS = 30.0
"""Seconds that commands get to end when the owner is gone."""

WATCH = 1.0
"""Seconds between looks at whether the owner lives: a fork of it may keep the socket open."""


def frame(head: Mapping[str, object], body: bytes = b"") -> bytes:
    raw = json.dumps(head).encode()
    return HEADER.pack(len(raw), len(body)) + raw + body


def unframe(buffer: bytearray) -> tuple[Request, bytes] | None:
    """Take the first frame off a buffer, if it is all there."""
    if len(buffer) < HEADER.size:
        return None
    head, body = HEADER.unpack_from(buffer)
    middle, end = HEADER.size + head, HEADER.size + head + body
    if len(buffer) < end:
        return None
    taken = json.loads(buffer[HEADER.size : middle]), bytes(buffer[middle:end])
    del buffer[:end]
    return taken


def command(request: Request) -> Callable[[], object]:
    main = functools.partial(execute, request["argv"], request["env"], request["cwd"], request["limits"])
    return functools.partial(init, main)


class Keeper:
    """Serves its owner; nothing it does itself takes long."""

    def __init__(self, sock: socket.socket, directory: str) -> None:
        self.sock, self.directory = sock, directory
        self.buffer = bytearray()
        self.selector = selectors.DefaultSelector()
        self.jobs: set[Job] = set()
        self.shells: dict[str, Shell] = {}
        self.endings: list[tuple[int, set[Job], list[int]]] = []
        self.owned, self.owner = True, os.getppid()
        self.watch(sock.fileno(), self.on_socket)

    def run(self) -> None:
        """Serve until the owner is gone, then end everything and remove the directory."""
        while self.owned and os.getppid() == self.owner:
            self.step()
        last = time.monotonic() + LAST_WORDS
        for job in self.jobs:
            job.deadline = last
            job.end()
        while self.jobs and time.monotonic() < last:
            self.step()
        remove(self.directory)

    def step(self) -> None:
        deadlines = [job.deadline for job in self.jobs if job.deadline is not None]
        wait = min([WATCH, *(deadline - time.monotonic() for deadline in deadlines)])
        for key, _ in self.selector.select(max(wait, 0.0)):
            if self.selector.get_map().get(key.fd) is key:  # not closed by the one before
                key.data()
        now = time.monotonic()
        for job in self.jobs:
            if job.deadline is not None and job.deadline <= now:
                job.timed_out, job.deadline = True, None
                job.end()

    def watch(self, fd: int, then: Callable[[], object], events: int = selectors.EVENT_READ) -> None:
        self.selector.register(fd, events, then)

    def unwatch(self, fd: int) -> None:
        if fd in self.selector.get_map():
            self.selector.unregister(fd)

    def on_socket(self) -> None:
        try:
            data = self.sock.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            self.owned = False
            self.unwatch(self.sock.fileno())
        self.buffer += data
        while taken := unframe(self.buffer):
            request, body = taken
            try:
                getattr(self, "do_" + request["op"])(request, body)
            except OSError as error:  # no more processes or descriptors, a full disk
                self.send({"id": request["id"], "failure": str(error)})

    def send(self, head: Mapping[str, object], body: bytes = b"") -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # end-of-file is read next
            self.sock.sendall(frame(head, body))

    # -- requests
    def do_exec(self, request: Request, body: bytes) -> None:
        with tempfile.TemporaryFile(dir=self.directory) as stdin:
            stdin.write(body)
            stdin.seek(0)
            job = Job(request, streams=2)
            self.begin(job, [stdin.fileno(), *(write for _, write in job.pipes)], command(request))

    def do_shell(self, request: Request, body: bytes) -> None:
        """Send a script, given as one line, to the box's shell, which is started if need be."""
        shell = self.shells.get(request["box"])
        if shell is None:
            shell = self.shells[request["box"]] = Shell(request)
            output = shell.pipes[0][1]
            with open(os.devnull, "rb") as null:
                inside = [null.fileno(), output, output, shell.script_pipe[0], shell.status_pipe[1]]
                self.begin(shell, inside, command(request))
            self.watch(shell.status_pipe[0], functools.partial(self.on_status, shell))
        shell.expect(request)
        shell.unsent = body
        self.feed(shell)

    def do_search(self, request: Request, _: bytes) -> None:
        work = functools.partial(attempt, search, request["pattern"], request["target"], request["limit"])
        self.begin(Job(request), [], work)

    def do_remove(self, request: Request, _: bytes) -> None:
        self.begin(Job(request), [], functools.partial(attempt, remove, request["target"]))

    def do_cancel(self, request: Request, _: bytes) -> None:
        for job in self.jobs:
            if job.request == request["target"]:
                self.forget_shell(job)
                job.end()

    def do_end(self, request: Request, _: bytes) -> None:
        """End every process of a box; answered when the last is gone."""
        jobs = {job for job in self.jobs if job.box == request["box"]}
        for job in jobs:
            self.forget_shell(job)
            job.end()
        self.endings.append((request["id"], jobs, []))
        self.settle()

    # -- jobs
    def begin(self, job: Job, descriptors: Sequence[int], main: Callable[[], object]) -> None:
        job.start(descriptors, main)
        self.jobs.add(job)
        for fd in job.output:
            os.set_blocking(fd, False)
            self.watch(fd, functools.partial(self.on_output, job, fd))
        self.watch(job.report_pipe[0], functools.partial(self.on_report, job))

    def feed(self, shell: Shell) -> None:
        fd = shell.script_pipe[1]
        self.unwatch(fd)
        if shell.feed():
            self.watch(fd, functools.partial(self.feed, shell), selectors.EVENT_WRITE)

    def on_output(self, job: Job, fd: int) -> None:
        if job.pump(fd) is False:
            self.unwatch(fd)

    def on_status(self, shell: Shell) -> None:
        words = os.read(shell.status_pipe[0], CHUNK).split()
        if not words:
            self.unwatch(shell.status_pipe[0])
        elif shell.request is not None:
            self.answer(shell, [int(words[-1]), 0])

    def on_report(self, job: Job) -> None:
        data = os.read(job.report_pipe[0], CHUNK)
        job.report += data
        if data:
            return
        os.waitpid(job.pid, 0)
        self.jobs.discard(job)
        self.forget_shell(job)
        result = json.loads(job.report) if job.report else None
        if result is None:
            self.end_strays()
        if job.request is not None:
            self.answer(job, result)
        for fd in job.own():
            self.unwatch(fd)
            os.close(fd)
        for _, jobs, counts in self.endings:
            if job in jobs:
                jobs.discard(job)
                killed = result[1] if isinstance(result, list) else 0
                counts.append(max(killed - isinstance(job, Shell), 0))  # the idle shell itself is no loss
        self.settle()

    def answer(self, job: Job, result: object) -> None:
        texts = job.drain()
        flags = {"timed_out": job.timed_out, "truncated": job.truncated}
        head = {"id": job.request, "result": result, "sizes": [len(text) for text in texts], **flags}
        self.send(head, b"".join(texts))
        job.request = job.deadline = None

    def settle(self) -> None:
        """Answer the requests to end a box whose last process is gone."""
        for request, jobs, counts in self.endings:
            if not jobs:
                self.send({"id": request, "ended": sum(counts)})
        self.endings = [ending for ending in self.endings if ending[1]]

    def forget_shell(self, job: Job) -> None:
        if self.shells.get(job.box) is job:
            del self.shells[job.box]

    def end_strays(self) -> None:
        """An init was itself killed: what it kept has come to us."""
        known = {job.pid for job in self.jobs}
        while strays := [pid for pid in children() if pid not in known]:
            for pid in strays:
                kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def main() -> None:
    """The keeper process, its socket's descriptor and its directory given as arguments."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    Keeper(socket.socket(fileno=int(sys.argv[1])), sys.argv[2]).run()
