"""The keeper's children: what they print, when they must end and who waits for them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from turnwise.sandbox.process.keeper.commands import PR_SET_PDEATHSIG, kill, prctl

Request = Mapping[str, Any]

CHUNK = 1 << 16
REPORT = 5
"""A child's descriptors: 0 to 2, for a shell its scripts (3) and statuses (4), and its report."""


class Job:
    """One child."""

    def __init__(self, request: Request, streams: int = 0) -> None:
        self.box: str = request["box"]
        self.pid = 0
        self.pipes = [os.pipe() for _ in range(streams)]
        self.output = {read: bytearray() for read, _ in self.pipes}
        self.report_pipe = os.pipe()
        self.report = bytearray()
        self.expect(request)

    def expect(self, request: Request) -> None:
        """From now on it runs for this request."""
        self.request: int | None = request["id"]
        self.cap: int = request.get("cap", 0)
        self.deadline: float | None = time.monotonic() + request["timeout"]
        self.truncated = self.timed_out = False

    def start(self, descriptors: Sequence[int], main: Callable[[], object]) -> None:
        """Fork. The child gets these descriptors as 0, 1, ... and reports what ``main`` returns."""
        self.pid = os.fork()
        if self.pid:
            for fd in (self.report_pipe[1], *(write for _, write in self.pipes)):
                os.close(fd)
            return
        try:
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            above = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (*descriptors, self.report_pipe[1])]
            os.closerange(0, 64)
            for number, fd in enumerate(above[:-1]):
                os.dup2(fd, number)
            os.dup2(above[-1], REPORT, inheritable=False)
            for fd in map(int, os.listdir("/dev/fd")):  # no range: the limit may be a thousand million
                if fd > REPORT:
                    with contextlib.suppress(OSError):
                        os.close(fd)
            with open(REPORT, "w") as report:
                json.dump(main(), report)
        finally:
            os._exit(0)

    def end(self) -> None:
        """Have it, and all it started, killed; its report follows."""
        kill(self.pid, signal.SIGTERM)

    def pump(self, fd: int) -> bool | None:
        """Read once, keeping the first ``cap`` bytes of the stream. False at its end, None when empty."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return None
        room = max(self.cap - len(self.output[fd]), 0)
        self.truncated |= len(data) > room
        self.output[fd] += data[:room]
        return bool(data)

    def drain(self) -> list[bytes]:
        """What the streams hold, to the last byte, and a clean slate."""
        texts = []
        for fd, kept in self.output.items():
            while self.pump(fd):
                pass
            texts.append(bytes(kept))
            kept.clear()
        return texts

    def own(self) -> list[int]:
        """The descriptors to close when it is over."""
        return [*self.output, self.report_pipe[0]]


class Shell(Job):
    """A job that is sent scripts and answers a status for each; idle while ``request`` is None."""

    def __init__(self, request: Request) -> None:
        super().__init__(request, streams=1)
        self.script_pipe, self.status_pipe = os.pipe(), os.pipe()
        self.unsent = b""

    def start(self, descriptors: Sequence[int], main: Callable[[], object]) -> None:
        super().start(descriptors, main)
        os.close(self.script_pipe[0])
        os.close(self.status_pipe[1])
        os.set_blocking(self.script_pipe[1], False)

    def feed(self) -> bool:
        """Send on what the pipe takes of the script; whether some is left."""
        try:
            self.unsent = self.unsent[os.write(self.script_pipe[1], self.unsent) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:  # the shell has ended, its report is on the way
            return False
        return bool(self.unsent)

    def own(self) -> list[int]:
        return [*super().own(), self.status_pipe[0], self.script_pipe[1]]
