"""Frames on a stream socket, as both ends of every connection here use them.

A frame is two lengths (big-endian u32), a JSON object and a body of raw bytes. ``id`` in the object
pairs a reply with its request; id 0 is news nobody asked for. Open files may travel beside a frame
(``SCM_RIGHTS``): its object then says how many, under ``fds``, and they are handed out in order.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

_LENGTHS = struct.Struct(">II")
_CHUNK = 1 << 16
_FDS_SPACE = socket.CMSG_SPACE(16 * 4)

Head = dict[str, Any]


class Connection(Protocol):
    """What is used of a socket, so that a pair of pipes can take its place."""

    def fileno(self) -> int: ...

    def recvmsg(
        self, size: int, ancillary_size: int = ..., /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]: ...

    def sendmsg(self, buffers: Sequence[memoryview], ancillary: Sequence[Any] = ..., /) -> int: ...

    def sendall(self, data: memoryview, /) -> None: ...


def encode(head: Head, body: bytes = b"") -> bytes:
    raw = json.dumps(head).encode()
    return _LENGTHS.pack(len(raw), len(body)) + raw + body


class Decoder:
    """The receiving half: bytes and files as they come, frames out."""

    @property
    def last_words(self) -> str:
        """What the far side said before its end, beside frames."""
        return ""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fds: deque[int] = deque()

    def receive(self, sock: Connection) -> bool:
        """Take what one ``recvmsg`` gives; False at the end of the stream."""
        data, ancillary, _, _ = sock.recvmsg(_CHUNK, _FDS_SPACE)
        self.feed(data)
        for _, _, raw in ancillary:
            self._fds.extend(array.array("i", raw))
        return bool(data)

    def feed(self, data: bytes | memoryview) -> None:
        self._buffer += data

    def frames(self) -> Iterator[tuple[Head, bytes, list[int]]]:
        """Every complete frame, with the files that came beside it; they are the caller's to close."""
        buffer, at = self._buffer, _LENGTHS.size
        while len(buffer) >= at:
            head_size, body_size = _LENGTHS.unpack_from(buffer)
            end = at + head_size + body_size
            if len(buffer) < end:
                return
            head: Head = json.loads(buffer[at : at + head_size])
            body = bytes(memoryview(buffer)[at + head_size : end])
            del buffer[:end]
            yield head, body, [self._fds.popleft() for _ in range(head.get("fds", 0))]

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popleft())


def send(sock: Connection, head: Head, body: bytes = b"", fds: Sequence[int] = ()) -> None:
    """Send one frame on a blocking socket."""
    if fds:
        head = {**head, "fds": len(fds)}
    data = memoryview(encode(head, body))
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([data], ancillary)
    if sent < len(data):
        sock.sendall(data[sent:])


class LimitError(Exception):
    """The far side's form of :class:`turnwise.sandbox.contract.LimitExceeded`."""

    def __init__(self, resource: str, message: str) -> None:
        super().__init__(message)
        self.resource = resource


class ShellError(Exception):
    """The far side's form of :class:`turnwise.sandbox.contract.ShellSilent`."""


class UserError(Exception):
    """The far side's form of :class:`turnwise.sandbox.contract.UserUnsupported`."""


def describe(error: BaseException) -> Head:
    """An exception as the ``error`` of a reply; :func:`turnwise.sandbox.namespaces.link.raised` undoes it."""
    if isinstance(error, OSError):
        return {
            "kind": "os",
            "errno": error.errno or 0,
            "message": error.strerror or str(error),
            "path": error.filename,
        }
    if isinstance(error, LimitError):
        return {"kind": "limit", "resource": error.resource, "message": str(error)}
    return {"kind": type(error).__name__, "message": str(error)}
