"""The owner's end of a connection: many requests at once over one socket, in asyncio.

It works on the socket itself rather than through a transport, because open files travel beside
frames and because a tool call should cost one ``send`` and one ``recvmsg``. Every request has a
deadline; when one passes, when the stream ends or when the far side reports its own end, the link is
dead and every waiting and later request raises :class:`SandboxDied` with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from turnwise.sandbox.contract import (
    LimitExceeded,
    SandboxDied,
    SandboxError,
    ShellSilent,
    UserUnsupported,
)
from turnwise.sandbox.namespaces import channel
from turnwise.sandbox.namespaces.channel import Head

KNOWN: dict[str, type[Exception]] = {
    "ValueError": ValueError,
    "RuntimeError": RuntimeError,
    "UserError": UserUnsupported,
    "ShellError": ShellSilent,
}
"""What the far side's errors are here, by the names of their classes."""


class Reply(NamedTuple):
    head: Head
    body: bytes
    fds: list[int]


def raised(error: Head) -> Exception:
    """The exception a far side described (see :func:`channel.describe`), as the contract names it."""
    kind, message = error["kind"], error["message"]
    if kind == "os":
        if error["errno"] in (errno.ENOSPC, errno.EDQUOT):
            return LimitExceeded("disk", f"{message}: {error['path']}")
        return OSError(error["errno"], message, error["path"])
    if kind == "limit":
        return LimitExceeded(error["resource"], message)
    return KNOWN[kind](message) if kind in KNOWN else SandboxError(f"{kind}: {message}")


class Link:
    """Owns ``sock``; :meth:`close` ends it."""

    def __init__(
        self,
        sock: socket.socket,
        name: str,
        decoder: channel.Decoder | None = None,
        news: Callable[[Reply], None] | None = None,
    ) -> None:
        sock.setblocking(False)
        self._sock, self._name = sock, name
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._decoder = decoder or channel.Decoder()
        self._news = news
        self._sinks: dict[int, Callable[[Reply], None]] = {}
        self._backlog: deque[tuple[memoryview, list[int]]] = deque()
        self.death: str | None = None
        """Why it is dead, once it is."""
        self._loop.add_reader(sock, self._on_readable)

    # ------------------------------------------------------------ requests
    def expect(self, number: int, timeout: float, what: str) -> asyncio.Future[Reply]:
        """A future for the frame with this id, which kills the link when it is not there in time."""
        if self.death is not None:
            raise SandboxDied(self.death)
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[number] = future
        timer = self._loop.call_later(
            timeout, self.close, f"{self._name}: no answer to {what} in {timeout:g} s"
        )

        def done(_: asyncio.Future[Reply]) -> None:
            timer.cancel()
            self._waiting.pop(number, None)

        future.add_done_callback(done)
        return future

    async def call(
        self,
        op: str,
        body: bytes = b"",
        *,
        timeout: float,
        fds: Sequence[int] = (),
        sink: Callable[[Reply], None] | None = None,
        **arguments: Any,
    ) -> Reply:
        """One request and its reply. Raises what the far side raised, or :class:`SandboxDied`.

        When the caller is cancelled the far side is told, so that a command does not outlive its caller.
        ``sink`` takes the parts that come before the reply, where there are some.
        """
        number = next(self._numbers)
        future = self.expect(number, timeout, op)
        if sink is not None:
            self._sinks[number] = sink
            future.add_done_callback(lambda _: self._sinks.pop(number))
        self._post({"id": number, "op": op, **arguments}, body, fds)
        try:
            reply = await future
        except asyncio.CancelledError:
            self.post("cancel", target=number)
            if future.done() and not future.cancelled() and future.exception() is None:
                for fd in future.result().fds:  # it came as the caller was cancelled
                    os.close(fd)
            raise
        if "error" in reply.head:
            raise raised(reply.head["error"])
        return reply

    def post(self, op: str, body: bytes = b"", **arguments: Any) -> None:
        """A request nobody waits for; nothing happens on a dead link."""
        if self.death is None:
            self._post({"id": next(self._numbers), "op": op, **arguments}, body, ())

    def _post(self, head: Head, body: bytes, fds: Sequence[int]) -> None:
        if fds:
            head["fds"] = len(fds)
        # The files are duplicated: the caller may close its own before a full socket took the frame.
        self._backlog.append((memoryview(channel.encode(head, body)), [os.dup(fd) for fd in fds]))
        if len(self._backlog) == 1 and not self._flush():
            self._loop.add_writer(self._sock, self._on_writable)

    def _flush(self) -> bool:
        """Send what the socket takes; True when nothing is left to send."""
        while self._backlog:
            data, fds = self._backlog[0]
            try:
                sent = socket.send_fds(self._sock, [data], fds) if fds else self._sock.send(data)
            except BlockingIOError:
                return False
            except OSError as error:
                self.close(f"{self._name} is gone ({error.strerror})")
                return True
            for fd in fds:
                os.close(fd)
            if sent < len(data):
                self._backlog[0] = (data[sent:], [])
            else:
                self._backlog.popleft()
        return True

    # ------------------------------------------------------------ events
    def _on_writable(self) -> None:
        if self._flush() and self.death is None:
            self._loop.remove_writer(self._sock)

    def _on_readable(self) -> None:
        try:
            alive = self._decoder.receive(self._sock)
        except BlockingIOError:
            return
        except OSError:
            alive = False
        for head, body, fds in self._decoder.frames():
            self._on_frame(Reply(head, body, fds))
        if not alive:
            self.close(f"{self._name} is gone{self._decoder.last_words}")

    def _on_frame(self, reply: Reply) -> None:
        if "fatal" in reply.head:
            self.close(f"{self._name} failed: {reply.head['fatal']}")
            return
        if "news" in reply.head and self._news is not None:
            self._news(reply)
            return
        if "part" in reply.head:
            if reply.head["id"] in self._sinks:
                self._sinks[reply.head["id"]](reply)
            return
        future = self._waiting.get(reply.head["id"])
        if future is None or future.done():
            for fd in reply.fds:
                os.close(fd)
        else:
            future.set_result(reply)

    def close(self, reason: str = "the connection was closed") -> None:
        """End it. Every waiting request raises :class:`SandboxDied`. Closing twice is harmless."""
        if self.death is not None:
            return
        self.death = reason
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        with contextlib.suppress(OSError):  # the far side has ended
            self._sock.shutdown(socket.SHUT_RDWR)  # a child of ours may have a copy of the socket
        self._sock.close()
        self._decoder.close()
        for _, fds in self._backlog:
            for fd in fds:
                os.close(fd)
        self._backlog.clear()
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_exception(SandboxDied(reason))
                future.exception()  # a caller that was cancelled meanwhile will not look
