"""How a server tells a client what went wrong: a code for programs, a message and a remedy for people."""

from __future__ import annotations

from enum import StrEnum

from pydantic import field_validator

from turnwise.envs.types import EndReason, Model

MAX_FRAME = 16 << 20
"""Bytes of one frame. A larger one is refused; beyond four times as much the connection ends."""

RETRY_SECONDS = 5.0
"""When to try again where there was no room."""


class Code(StrEnum):
    """What went wrong."""

    INVALID_JSON = "invalid_json"
    UNKNOWN_TYPE = "unknown_type"
    INVALID_REQUEST = "invalid_request"
    TOO_LARGE = "too_large"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    USAGE = "usage"
    UNKNOWN_SESSION = "unknown_session"
    DUPLICATE_SESSION = "duplicate_session"
    DUPLICATE_REQUEST = "duplicate_request"
    WRONG_ORDER = "wrong_order"
    RUNNING = "running"
    ENDED = "ended"
    BUSY = "busy"
    DRAINING = "draining"
    DEADLINE = "deadline"
    CLOSED = "closed"
    GONE = "gone"
    MEMORY = "memory"
    EPISODE_FAILED = "episode_failed"
    SANDBOX = "sandbox"
    JOURNAL = "journal"
    INTERNAL = "internal"


REMEDIES: dict[Code, str] = {
    Code.INVALID_JSON: "send one JSON object per text frame",
    Code.UNKNOWN_TYPE: "send one of the types of protocol 1",
    Code.INVALID_REQUEST: "send the fields of this type, and no others",
    Code.TOO_LARGE: f"keep frames within {MAX_FRAME >> 20} MiB",
    Code.UNAUTHORIZED: "send the header 'Authorization: Bearer TOKEN' with a valid token",
    Code.FORBIDDEN: "use the trainer's token",
    Code.NOT_FOUND: "ask /turnwise/v1/environments what is served",
    Code.USAGE: "correct the name or value",
    Code.UNKNOWN_SESSION: "open a session first; one ends with its client, its lease or at a bound",
    Code.DUPLICATE_SESSION: "give each session a name of its own",
    Code.DUPLICATE_REQUEST: "let the ids of a session grow; repeat a request byte for byte or not at all",
    Code.WRONG_ORDER: "reset a session once, then step",
    Code.RUNNING: "wait for the reply before the next call of the same session",
    Code.ENDED: "open another session for another episode",
    Code.BUSY: "try again later, close sessions, or serve with more --sessions",
    Code.DRAINING: "use another server, or this one when it is up again",
    Code.DEADLINE: "open another session",
    Code.CLOSED: "open another session",
    Code.GONE: "open another session",
    Code.MEMORY: "let the environment hold less, or serve with more --session-memory; open another session",
    Code.EPISODE_FAILED: "open another session",
    Code.SANDBOX: "open another session",
    Code.JOURNAL: "make room in the journal's folder, then open another session",
    Code.INTERNAL: "see the server's log",
}


class Fault(Model):
    """A refusal or a failure."""

    code: Code
    """One that this version does not know, as of a newer server, is an internal one."""
    message: str
    remedy: str
    end: EndReason | None = None
    """How the episode ended, where that was not by a step."""
    retry_after: float | None = None
    """Seconds after which the same may work."""

    @field_validator("code", mode="before")
    @classmethod
    def _known(cls, code: object) -> object:
        return Code.INTERNAL if isinstance(code, str) and code not in set(Code) else code


class Refusal(Exception):
    """A request that is answered with a :class:`Fault`."""

    def __init__(
        self, code: Code, message: str, *, end: EndReason | None = None, request: int | None = None
    ) -> None:
        super().__init__(message)
        retry = RETRY_SECONDS if code in (Code.BUSY, Code.DRAINING) else None
        self.fault = Fault(code=code, message=message, remedy=REMEDIES[code], end=end, retry_after=retry)
        self.request = request
        """The id of the request that it answers, where that could be read."""

    @classmethod
    def of(cls, fault: Fault) -> Refusal:
        """A new one of the same fault: one that is kept and raised again keeps all it was raised through."""
        return cls(fault.code, fault.message, end=fault.end)
