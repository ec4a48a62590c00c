"""Search of files by regular expression, in the resident.

A pattern can take time exponential in a line's length, so the search runs under an alarm; Python's
matcher looks for signals as it backtracks. What takes longer than the deadline is an error of the
pattern's.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
from collections.abc import Iterator

from turnwise.sandbox.namespaces.channel import Head
from turnwise.sandbox.namespaces.files import Answer, Files, absolute

DEADLINE = 5.0
_BINARY_PROBE = 4096
_LONGEST_LINE = 1 << 16
_UNREADABLE = (PermissionError, FileNotFoundError)  # closed by the agent, or deleted meanwhile


def search(files: Files, head: Head, _: bytes) -> Answer:
    pattern, limit, top = head["pattern"], head["limit"], absolute(head["path"])
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r} is no regular expression: {error}") from error
    found: list[tuple[str, int, str]] = []
    with _deadline(f"pattern {pattern!r} took longer than {DEADLINE:g} s below {top}: make it simpler"):
        if stat.S_ISDIR(os.stat(top).st_mode):
            for entry in files.walk(top, *_UNREADABLE):
                with contextlib.suppress(*_UNREADABLE):
                    found += _matches(files, compiled, entry.path, limit - len(found))
                if len(found) >= limit:
                    break
        else:
            found += _matches(files, compiled, top, limit)
    return {"matches": found}, b""


def _matches(files: Files, pattern: re.Pattern[str], path: str, limit: int) -> Iterator[tuple[str, int, str]]:
    with open(files.open(path, os.O_RDONLY), "rb") as file:
        if b"\0" in file.read(_BINARY_PROBE):
            return
        file.seek(0)
        number, begins = 0, True
        while limit > 0 and (raw := file.readline(_LONGEST_LINE)):  # of a longer line, a part
            number += begins
            begins = raw.endswith(b"\n")
            text = raw.rstrip(b"\r\n").decode(errors="replace")
            if pattern.search(text):
                yield path, number, text
                limit -= 1


@contextlib.contextmanager
def _deadline(message: str) -> Iterator[None]:
    def expire(*_: object) -> None:
        raise ValueError(message)

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
