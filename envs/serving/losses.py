"""How many sessions died with workers. Each worker has the number of its open ones in a file of 16 bytes that
it maps, which outlives it whatever ends it; its successor finds there what was open then."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OPEN, _LOST = 0, 1
_SIZE = 16


class Losses:
    """Those of the workers that had one number, one after another. In a server of one process, which nothing
    outlives, they are never any."""

    def __init__(self) -> None:
        self._counts = memoryview(bytearray(_SIZE)).cast("q")

    @property
    def lost(self) -> int:
        """Sessions that died with the workers before this one."""
        return self._counts[_LOST]

    def now_open(self, sessions: int) -> None:
        """So many would die with this one."""
        self._counts[_OPEN] = sessions

    @contextmanager
    def kept_in(self, file: Path) -> Iterator[None]:
        """Count on from what the worker before left in a file, which is made where there is none."""
        with open(file, "a+b") as opened:
            opened.truncate(_SIZE)
            mapped = mmap.mmap(opened.fileno(), _SIZE)
        with mapped, memoryview(mapped) as raw, raw.cast("q") as counts:
            counts[_LOST] += counts[_OPEN]
            counts[_OPEN] = 0
            own, self._counts = self._counts, counts
            try:
                yield
            finally:
                self._counts = own
