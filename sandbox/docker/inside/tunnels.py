"""The far half of ``expose``: sockets that listen here and are served by the owner.

What is said on a connection travels in frames of the resident's own channel, so no mount and no network is
needed, and the Engine may be on another machine. In each direction of a connection one chunk at most is on
its way: the next is read when the other side says that it got rid of the last.
"""

from __future__ import annotations

import functools
import itertools
import selectors
import socket
from collections.abc import Callable

from turnwise.sandbox.namespaces import files
from turnwise.sandbox.namespaces.channel import Head
from turnwise.sandbox.namespaces.files import Answer

CHUNK = 1 << 16
MOST = 64
"""Connections open at once; further ones wait in the backlog."""

NETWORK = ""
"""In the place of a path: the proxy's port."""

Tell = Callable[[Head, bytes], None]
"""Sends news to the owner."""


class Tunnel:
    """One accepted connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.unsent = b""
        self.reading = True
        """Whether the agent may say more, and may say it now."""


class Tunnels:
    def __init__(self, selector: selectors.BaseSelector, tell: Tell) -> None:
        self._selector, self._tell = selector, tell
        self._numbers = itertools.count(1)
        self._listeners: dict[str, socket.socket] = {}
        self._tunnels: dict[int, Tunnel] = {}

    def listen(self, path: str) -> None:
        """Listen at a path, in the place of another socket that may be there."""
        self.add(path, files.listen(path))

    def add(self, path: str, listener: socket.socket) -> None:
        """Accept on a listening socket, which ``path`` stands for."""
        listener.setblocking(False)
        previous = self._listeners.pop(path, None)
        if previous is not None:
            self._forget(previous)
        self._listeners[path] = listener
        self._watch_listeners()

    def _watch_listeners(self) -> None:
        for path, listener in self._listeners.items():
            watched = listener in self._selector.get_map()
            wanted = len(self._tunnels) < MOST
            if wanted and not watched:
                accept = functools.partial(self._on_connection, path, listener)
                self._selector.register(listener, selectors.EVENT_READ, accept)
            elif watched and not wanted:
                self._selector.unregister(listener)

    def _forget(self, sock: socket.socket) -> None:
        if sock in self._selector.get_map():
            self._selector.unregister(sock)
        sock.close()

    # ------------------------------------------------------------ from the agent
    def _on_connection(self, path: str, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        number = next(self._numbers)
        self._tunnels[number] = Tunnel(sock)
        self._tell({"news": "opened", "tunnel": number, "path": path}, b"")
        self._watch(number)
        self._watch_listeners()

    def _watch(self, number: int) -> None:
        """Wait for what can happen next on a connection."""
        tunnel = self._tunnels[number]
        events = selectors.EVENT_READ if tunnel.reading else 0
        events |= selectors.EVENT_WRITE if tunnel.unsent else 0
        if tunnel.sock in self._selector.get_map():
            self._selector.unregister(tunnel.sock)
        if events:
            self._selector.register(tunnel.sock, events, functools.partial(self._on_event, number))

    def _on_event(self, number: int) -> None:
        tunnel = self._tunnels[number]
        try:
            if tunnel.unsent:
                self._send(number, tunnel)
            if tunnel.reading:
                data = tunnel.sock.recv(CHUNK)  # b"": the end, which is told like any other chunk
                tunnel.reading = False
                self._tell({"news": "said", "tunnel": number}, data)
        except BlockingIOError:
            pass
        except OSError:
            self._end(number)
            return
        self._watch(number)

    def _send(self, number: int, tunnel: Tunnel) -> None:
        tunnel.unsent = tunnel.unsent[tunnel.sock.send(tunnel.unsent) :]
        if not tunnel.unsent:
            self._tell({"news": "taken", "tunnel": number}, b"")

    def _end(self, number: int) -> None:
        self._forget(self._tunnels.pop(number).sock)
        self._tell({"news": "ended", "tunnel": number}, b"")
        self._watch_listeners()

    # ------------------------------------------------------------ from the owner
    def on_data(self, head: Head, body: bytes) -> Answer:
        """What the far side said; nothing when it has said all."""
        tunnel = self._tunnels.get(head["tunnel"])
        if tunnel is not None and body:
            tunnel.unsent = body
            self._watch(head["tunnel"])
        elif tunnel is not None:
            tunnel.sock.shutdown(socket.SHUT_WR)
        return {}, b""

    def on_taken(self, head: Head, _: bytes) -> Answer:
        tunnel = self._tunnels.get(head["tunnel"])
        if tunnel is not None:
            tunnel.reading = True
            self._watch(head["tunnel"])
        return {}, b""

    def on_end(self, head: Head, _: bytes) -> Answer:
        """Both directions have come to their end, or the far side is gone."""
        if head["tunnel"] in self._tunnels:
            self._end(head["tunnel"])
        return {}, b""
