"""The connection that the Engine hijacks for a container's standard streams, as a link needs it.

Outwards it is the container's standard input as it is. Inwards the Engine puts a header of eight bytes before
each piece: the stream (1 output, 2 error), three zeros, the length. A piece may be any part of a frame.
"""

from __future__ import annotations

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
_MOST_COMPLAINTS = 2000


class PieceDecoder(Decoder):
    """Takes the pieces apart; what the resident says on its standard error is kept to be told."""

    def __init__(self) -> None:
        super().__init__()
        self._raw = bytearray()
        self._errors = bytearray()

    @property
    def complaint(self) -> str:
        return self._errors[-_MOST_COMPLAINTS:].decode(errors="replace").strip()

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

    A Unix or TCP socket is duplicated, so that it does not end with the response it came of. What a plain
    socket cannot be (TLS, an SSH channel) is pumped by a thread, which ends with either side.
    """
    sock = getattr(stream, "_sock", stream)
    if isinstance(sock, socket.socket) and not isinstance(sock, ssl.SSLSocket):
        own = socket.socket(fileno=os.dup(sock.fileno()))
        stream.close()
        sock.close()
        return own
    mine, theirs = socket.socketpair()
    threading.Thread(target=_pump, args=(theirs, sock), name="docker connection", daemon=True).start()
    return mine


def _pump(near: socket.socket, far: Any) -> None:
    """Copy both ways until one side ends."""
    with near:
        far.settimeout(None)
        while True:
            pending = isinstance(far, ssl.SSLSocket) and far.pending()
            ready = [far] if pending else select.select([near, far], [], [])[0]
            for source, target in ((near, far), (far, near)):
                if source in ready:
                    try:
                        data = source.recv(_CHUNK)
                        if data:
                            target.sendall(data)
                    except OSError:
                        data = b""
                    if not data:
                        far.close()
                        return
