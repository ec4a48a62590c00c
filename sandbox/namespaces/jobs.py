"""Running commands, seen from the resident: captured output, a deadline, an end."""

from __future__ import annotations

import fcntl
import functools
import os
import selectors
import signal
import socket
import struct
import termios
import time
from collections.abc import Callable

from turnwise.sandbox.namespaces.channel import Head

KILLED = 128 + signal.SIGKILL
FILE_TOO_LARGE = 128 + signal.SIGXFSZ

Reply = Callable[[Head, bytes], None]
"""Sends the answer to one request."""

Ended = Callable[["Job", int], None]
"""Told the exit code of a job that ended by itself or was killed."""


class Stream:
    """One output pipe: the first ``limit`` bytes are kept, the rest is read and thrown away."""

    def __init__(self, fd: int, limit: int) -> None:
        os.set_blocking(fd, False)
        self.fd, self.limit, self.data, self.truncated = fd, limit, bytearray(), False

    def pump(self, most: int = 1 << 16) -> int:
        """Read once; the number of bytes, 0 at the end, -1 when there is nothing now."""
        try:
            data = os.read(self.fd, most)
        except BlockingIOError:
            return -1
        room = self.limit - len(self.data)
        self.truncated |= len(data) > room
        self.data += data[:room] if len(data) > room else data
        return len(data)

    def drain(self) -> None:
        """Read what is there now, and no more: somebody may go on writing for ever."""
        left = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)))[0]
        while left > 0 and (count := self.pump(left)) > 0:
            left -= count

    def take(self) -> tuple[bytes, bool]:
        data, truncated = bytes(self.data), self.truncated
        self.data.clear()
        self.truncated = False
        return data, truncated


def when_children_end(selector: selectors.BaseSelector, look: Callable[[], None]) -> None:
    """Call ``look`` from the loop after a child of this process has ended: gVisor has no pidfds to wait for.

    Sockets, as gVisor lets the agent open a pipe of ours through /proc.
    """
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)

    def on_wake() -> None:
        woken.recv(1 << 16)
        look()

    selector.register(woken, selectors.EVENT_READ, on_wake)
    signal.set_wakeup_fd(wake.detach(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler nothing is written there


class Job:
    """A command under its exec-init (``pid``): what it prints and when it must end."""

    def __init__(
        self, selector: selectors.BaseSelector, pid: int, streams: list[Stream], ended: Ended, ending: int
    ) -> None:
        self.pid, self.streams, self._ended, self._ending = pid, streams, ended, ending
        self.reply: Reply | None = None
        """Where the answer goes; None while nobody waits for one."""
        self.deadline: float | None = None
        self.timed_out = False
        self._selector = selector
        for stream in streams:
            selector.register(stream.fd, selectors.EVENT_READ, functools.partial(self._on_output, stream))

    def begin(self, reply: Reply, timeout: float) -> None:
        self.reply, self.timed_out = reply, False
        self.deadline = time.monotonic() + timeout

    def finish(self, code: int, limit: str | None = None) -> None:
        """Answer with what was captured."""
        for stream in self.streams:
            stream.drain()
        parts = [stream.take() for stream in self.streams]
        if limit is None and code == FILE_TOO_LARGE:
            limit = "file_size"
        head = {
            "code": code,
            "lengths": [len(data) for data, _ in parts],
            "truncated": any(truncated for _, truncated in parts),
            "timed_out": self.timed_out,
            "limit": limit if code else None,
        }
        reply, self.reply, self.deadline = self.reply, None, None
        if reply is not None:
            reply(head, b"".join(data for data, _ in parts))

    def kill(self) -> None:
        """Have its init end with everything below it. It is reaped when it did."""
        self.deadline = None
        os.kill(self.pid, self._ending)  # it is ours to reap, so the number is nobody else's

    def _on_output(self, stream: Stream) -> None:
        if stream.pump() == 0:
            self._selector.unregister(stream.fd)

    def reap(self, options: int = 0) -> None:
        """Wait until all of it is gone, or with ``WNOHANG`` only look, and then answer whoever waits."""
        ended, status = os.waitpid(self.pid, options)
        if not ended:
            return
        code = os.waitstatus_to_exitcode(status)
        self._ended(self, code if code >= 0 else 128 - code)
        self.close()

    def close(self) -> None:
        for stream in self.streams:
            if stream.fd in self._selector.get_map():
                self._selector.unregister(stream.fd)
            os.close(stream.fd)
