"""One worker, from the judge's side: requests, replies, callbacks, and what no worker may do.

Whatever a worker does beside answering in time, in form and when asked, ends the grading:
:class:`Violation` is no ``Exception``, so that no ``pytest.raises(Exception)`` or ``except Exception`` of
a test can take it for an answer, and it is noted when it is made, should a test swallow it all the same.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]


class Violation(BaseException):
    """The worker broke the protocol."""


class NotSplittable(BaseException):
    """The test asked for something that cannot be had across two processes."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one worker may take of the judge."""

    call_seconds: float
    test_seconds: float
    calls: int
    message_bytes: int


class Link:
    """Talks to the worker at the other end of ``connection``."""

    def __init__(
        self, connection: socket.socket, hello: Mapping[str, Any], bounds: Bounds, note: Callable[[str], None]
    ) -> None:
        self._socket, self._bounds, self._note = connection, bounds, note
        self._buffer = bytearray()
        self._end = time.monotonic() + bounds.test_seconds
        self._number = self._calls = 0
        self.on_close: Callable[[], None] = lambda: None
        self._socket.settimeout(bounds.call_seconds)
        self._socket.sendall(json.dumps(dict(hello)).encode() + b"\n")

    def violation(self, what: str) -> Violation:
        """To be raised: also noted, whatever becomes of it."""
        self._note(what)
        return Violation(what)

    def request(self, message: Message, answer: Callable[[Message], Message]) -> Message:
        """Ask, and run the callbacks that the worker wants run meanwhile. Returns its reply."""
        self.check_silence()
        self._calls += 1
        if self._calls > self._bounds.calls:
            raise self.violation(f"a test made more than {self._bounds.calls} calls")
        self._number += 1
        number = self._number
        self._send({**message, "n": number})
        while True:
            reply = self._receive()
            if reply.get("n") != number:
                raise self.violation("a reply to another request")
            if "callback" not in reply:
                return reply
            self._send({**answer(reply), "n": number})

    def check_silence(self) -> None:
        """Nothing may have come that was not asked for."""
        self._socket.setblocking(False)
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            data = b""
        except OSError:
            raise self.violation("the worker ended") from None
        else:
            if not data:
                raise self.violation("the worker ended")
        if data or self._buffer:
            raise self.violation("an unsolicited message")

    def _send(self, message: Message) -> None:
        self._socket.settimeout(self._left())
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except (OSError, TimeoutError):
            raise self.violation("the worker ended, or reads nothing") from None

    def _left(self) -> float:
        left = min(self._bounds.call_seconds, self._end - time.monotonic())
        if left <= 0:
            raise self.violation("the time of a test is up")
        return left

    def _receive(self) -> Message:
        deadline = time.monotonic() + self._left()
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > self._bounds.message_bytes:
                raise self.violation("a message too large")
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise self.violation("no answer in time") from None
            except OSError:
                data = b""
            if not data:
                raise self.violation("the worker ended")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise self.violation("a message that is not JSON") from None
        if type(message) is not dict:
            raise self.violation("a message that is no object")
        return message

    def close(self) -> None:
        self._socket.close()
        self.on_close()


def text_list(data: Any, length: int | None = None) -> Sequence[str]:
    """A list of strings; raises ``ValueError``."""
    if type(data) is not list or any(type(item) is not str for item in data):
        raise ValueError("a list of names was expected")
    if length is not None and len(data) != length:
        raise ValueError(f"{length} names were expected")
    return data
