"""Which of a server's worker processes a connection belongs to, told by the head of its first request.

A session lives in one worker and is unknown to the others. So whatever leads to it begins with its
worker's number: the agent's token and the key of a client's lease, ``2.SECRET``, and the name of a session
of OpenEnv's that a socket is to attach to. A client that wants a certain worker names it in a header. Who
names none goes where there is the least to do.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

MAX_HEAD = 16 << 10
"""Bytes of a request's head that are looked at."""
END = b"\r\n\r\n"

_LEADS = tuple(
    re.compile(lead, re.IGNORECASE)
    for lead in (
        rb"\r\nturnwise-worker: *(\d{1,4}) *\r",
        rb"\r\nturnwise-lease: *(\d{1,4})\.",
        rb"\r\nauthorization: *bearer +(\d{1,4})\.",
        rb"\A[^\r]*[?&]session_id=(\d{1,4})\.",
    )
)


@dataclass(frozen=True, slots=True)
class Place:
    """A worker among its like."""

    index: int = 0
    workers: int = 1
    folder: Path | None = None
    """Where the workers reach each other; None where there is but one."""

    def secret(self) -> str:
        """A new one that leads back here."""
        return f"{self.index}.{secrets.token_urlsafe(32)}"


def worker_of(head: bytes) -> int | None:
    """The number of the worker that a request's head leads to, if any."""
    found = next(filter(None, (lead.search(head) for lead in _LEADS)), None)
    return None if found is None else int(found[1])
