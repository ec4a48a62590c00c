"""The connection that the Engine hijacks for a container's standard streams, as a link needs it.

Outwards it is the container's standard input as it is. Inwards the Engine puts a header of eight bytes before
each piece: the stream (1 output, 2 error), three zeros, the length. A piece may be any part of a frame.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import threading
from typing import Any

from turnwise.sandbox.namespaces.channel import Connection, Decoder

_HEADER = struct.Struct(">BxxxI")
_OUTPUT = 1
_CHUNK = 1 << 16
_MOST = 2000


class PieceDecoder(Decoder):
    """Takes the pieces apart; what the resident says on its standard error is kept to be told."""

    def __init__(self) -> None:
        super().__init__()
        self._raw = bytearray()
        self._errors = bytearray()

    @property
    def last_words(self) -> str:
        words = self._errors[-_MOST:].decode(errors="replace").strip()
        return words and f": {words}"

    def receive(self, sock: Connection) -> bool:
        data, _, _, _ = sock.recvmsg(_CHUNK)
        self._raw += data
        at = 0
        while len(self._raw) - at >= _HEADER.size:
            stream, size = _HEADER.unpack_from(self._raw, at)
            end = at + _HEADER.size + size
            if len(self._raw) < end:
                break
            piece = memoryview(self._raw)[at + _HEADER.size : end]
            if stream == _OUTPUT:
                self.feed(piece)
            else:
                self._errors += piece
            piece.release()
            at = end
        del self._raw[:at]
        return bool(data)


def plain(stream: Any) -> socket.socket:
    """A socket of our own in the place of what the docker package gives for a hijacked connection.

    A Unix or TCP socket is duplicated, so that it does not end with the response it came of. What goes
    through TLS is pumped by a thread, which ends with either side. Raises ``ConnectionError`` for SSH.
    """
    sock = getattr(stream, "_sock", stream)
    if isinstance(sock, ssl.SSLSocket):
        mine, theirs = socket.socketpair()
        threading.Thread(target=_pump, args=(theirs, sock), name="docker connection", daemon=True).start()
        return mine
    if not isinstance(sock, socket.socket):
        raise ConnectionError(
            "containers cannot be attached to through ssh://; forward the Engine's socket by ssh -L"
        )
    own = socket.socket(fileno=os.dup(sock.fileno()))
    stream.close()
    sock.close()
    return own


def _pump(near: socket.socket, far: Any) -> None:
    """Copy both ways until one side ends. Neither way waits for the other: both ends may be full."""
    outward, inward = bytearray(), bytearray()
    near.setblocking(False)
    far.setblocking(False)
    with near, contextlib.suppress(OSError):
        while True:
            readers = [near] * (len(outward) < _CHUNK) + [far] * (len(inward) < _CHUNK)
            writers = [far] * bool(outward) + [near] * bool(inward)
            pending = far in readers and far.pending()
            readable, writable, _ = select.select(readers, writers, [], 0 if pending else None)
            if near in readable and not _receive(near, outward):
                break
            if (far in readable or pending) and not _receive(far, inward):
                break
            if far in writable:
                _send(far, outward)
            if near in writable:
                _send(near, inward)
    far.close()
    far._response.close()  # which holds it open


def _receive(source: socket.socket, buffer: bytearray) -> bool:
    """Take what is there; False at the end."""
    try:
        data = source.recv(_CHUNK)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return True
    buffer += data
    return bool(data)


def _send(target: socket.socket, buffer: bytearray) -> None:
    with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        del buffer[: target.send(buffer)]
