"""A snapshot's content, on the owner's disk: the parts that a resident packed, as frames in a file.

The file has no name, so that it ends with the owner, however that ends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

from turnwise.sandbox.namespaces import channel
from turnwise.sandbox.namespaces.calls import ShellState
from turnwise.sandbox.namespaces.link import Reply

_CHUNK = 1 << 20


class Frozen:
    """``state`` is where the shell was. Whoever makes one holds it."""

    def __init__(self, state: ShellState | None) -> None:
        self.state = state
        self._holders = 1
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by whoever releases it last

    def add(self, part: Reply) -> None:
        """One part, as the resident sends it."""
        self._file.seek(0, 2)
        self._file.write(channel.encode({"part": part.head["part"]}, part.body))

    def parts(self) -> Iterator[tuple[list[Any], bytes]]:
        """What is frozen, part by part; any number may read it at the same time."""
        decoder, at = channel.Decoder(), 0
        while True:
            self._file.seek(at)
            data = self._file.read(_CHUNK)
            if not data:
                return
            at += len(data)
            decoder.feed(data)
            for head, body, _ in decoder.frames():
                yield head["part"], body

    def hold(self) -> None:
        self._holders += 1

    def release(self) -> None:
        """With the last who holds it, it is gone."""
        self._holders -= 1
        if self._holders == 0:
            self._file.close()
