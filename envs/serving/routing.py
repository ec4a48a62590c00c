"""Which of a server's worker processes a connection belongs to, told by the head of its first request.

A session lives in one worker and is unknown to the others. So whatever leads to it begins with its
worker's number: the agent's token, also as the password of a URL, and the key of a client's lease,
``2.SECRET``, and the name of a session of OpenEnv's that a socket is to attach to. A client that wants a
certain worker names it in a header. Who names none goes where there is the least to do.

Several equal servers behind one proxy are replicas. Their workers are counted through, so that a number
leads to one worker of all, and the proxy can route by the same heads.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from turnwise.envs.errors import UsageError
from turnwise.envs.serving.faults import Refusal
from turnwise.envs.serving.tokens import token_of

MAX_HEAD = 16 << 10
"""Bytes of a request's head that are looked at."""
END = b"\r\n\r\n"

_WORKER = re.compile(rb"\r\nturnwise-worker: *(\d{1,4}) *\r", re.IGNORECASE)
_LEASE = re.compile(rb"\r\nturnwise-lease: *([^\r]*)", re.IGNORECASE)
_AUTHORIZATION = re.compile(rb"\r\nauthorization: *([^\r]*)", re.IGNORECASE)
_SESSION = re.compile(rb"\A[^\r]*[?&]session_id=([^ &\r]*)", re.IGNORECASE)
_NUMBER = re.compile(r"(\d{1,4})\.")


@dataclass(frozen=True, slots=True)
class Place:
    """A worker among its like."""

    index: int = 0
    workers: int = 1
    """How many there are, those of other replicas included."""
    folder: Path | None = None
    """Where those of this server reach each other; None where there is but one."""
    siblings: tuple[int, ...] = ()
    """The others of this server."""

    def secret(self) -> str:
        """A new one that leads back here."""
        return f"{self.index}.{secrets.token_urlsafe(32)}"


@dataclass(frozen=True, slots=True)
class Replica:
    """One of several equal servers behind one proxy, counted from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Replica:
        """What ``2/3`` means. Raises ``UsageError``."""
        found = re.fullmatch(r"(\d{1,3})/(\d{1,3})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"replica {text!r}: write NUMBER/OF, such as 1/2 and 2/2")
        return cls(int(found[1]), int(found[2]))

    def numbers(self, workers: int) -> range:
        """Those of this server's workers, where every replica has so many."""
        return range((self.number - 1) * workers, self.number * workers)

    def place(self, index: int, workers: int, folder: Path | None = None) -> Place:
        """That of one of them."""
        siblings = tuple(number for number in self.numbers(workers) if number != index)
        return Place(index, self.of * workers, folder, siblings)


def worker_of(head: bytes) -> int | None:
    """The number of the worker that a request's head leads to, if any."""
    if named := _WORKER.search(head):
        return int(named[1])
    return _back_to(head)


def leads_back(head: bytes) -> bool:
    """Whether a request's head leads to what a worker holds, and not just to the worker."""
    return _back_to(head) is not None


def _back_to(head: bytes) -> int | None:
    found = (lead.search(head) for lead in (_LEASE, _AUTHORIZATION, _SESSION))
    lease, authorization, session = (None if lead is None else lead[1].decode("latin1") for lead in found)
    leads = map(leads_to, (lease, _token(authorization), session))
    return next((number for number in leads if number is not None), None)


def leads_to(text: object) -> int | None:
    """The number of the worker that a name or a secret begins with, if any."""
    found = _NUMBER.match(text) if isinstance(text, str) else None
    return None if found is None else int(found[1])


def _token(authorization: str | None) -> str | None:
    try:
        return token_of(authorization)
    except Refusal:
        return None  # the worker tells its sender
