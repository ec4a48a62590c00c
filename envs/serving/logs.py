"""A server's log: one line a record, as text or as JSON, which says what it is about.

What is being carried out is kept in a context variable, so that whatever is logged meanwhile, in whatever
module, carries the session, the environment and the request. No token is ever part of a message.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, Self

Style = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]


class About:
    """What is being carried out: whatever is logged within ``with About(…)`` is about this. More of it may be
    filled in as it becomes known."""

    __slots__ = ("_token", "env", "request", "session")

    def __init__(
        self, session: str | None = None, env: str | None = None, request: int | None = None
    ) -> None:
        self.session, self.env, self.request = session, env, request

    def __enter__(self) -> Self:
        self._token = _about.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _about.reset(self._token)


_about: ContextVar[About] = ContextVar("about", default=About())  # noqa: B039  nobody fills in this one


@contextmanager
def writing_log(style: Style, level: Level, worker: int = 0) -> Iterator[None]:
    """Meanwhile what this process logs goes to standard error: the package's from that level on, of others
    what is a warning or worse."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(worker) if style == "json" else TextLines(worker))
    root, own = logging.getLogger(), logging.getLogger("turnwise")
    before = (root.level, own.level, root.handlers, own.handlers)
    root.handlers, own.handlers = [handler], []
    root.setLevel(logging.WARNING)
    own.setLevel(level.upper())
    try:
        yield
    finally:
        root.handlers, own.handlers = before[2:]
        root.setLevel(before[0])
        own.setLevel(before[1])


class Lines(logging.Formatter):
    """Base of the styles."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def subject(self) -> dict[str, object]:
        """What it is about, as far as that is known."""
        now = _about.get()
        known = {"session": now.session, "env": now.env, "request": now.request}
        return {"worker": self._worker} | {name: value for name, value in known.items() if value is not None}

    def trace(self, record: logging.LogRecord) -> str:
        """The traceback, where there is one."""
        return "" if record.exc_info is None else self.formatException(record.exc_info)


class JsonLines(Lines):
    """An object a line: ``time``, ``level``, ``logger``, ``message``, ``worker``; ``session``, ``env``,
    ``request`` and ``trace`` where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self.subject(),
        }
        if trace := self.trace(record):
            line["trace"] = trace
        return json.dumps(line, ensure_ascii=False, default=str)


class TextLines(Lines):
    """For people; a line break within a message is shown, not made."""

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`."""
        subject = " ".join(f"{name}={value}" for name, value in self.subject().items())
        message = record.getMessage().replace("\n", "\\n")
        line = f"{_time(record)} {record.levelname.lower():<7} {message}  [{subject}]"
        trace = self.trace(record)
        return f"{line}\n{trace}" if trace else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
