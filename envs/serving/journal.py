"""The journal: every acknowledged call of every session, on disk before its reply.

One file a session, ``NAME.journal``, to which a line is added for each call that was carried out: its
CRC-32, its length and the entry as JSON. A line is written before the call is answered, which a killed
server survives; every 100 ms what was written is forced to the disk, which a machine without power
survives. A last line that is torn was never acknowledged, and reading leaves it out. The files are
readable by their owner only. They hold actions, digests and rewards, but of views only hashes, and of
tasks only the names.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from turnwise.envs.errors import UsageError, unknown
from turnwise.envs.registry import EnvSpec
from turnwise.envs.serving.faults import Code, Refusal
from turnwise.envs.types import Action, AgentView, EndReason, Model, RewardTerm, Step, TaskPublic, TaskRef

logger = logging.getLogger(__name__)

SYNC_SECONDS = 0.1
SUFFIX = ".journal"
_LINE = re.compile(rb"([0-9a-f]{8}) (\d+) (.*)", re.DOTALL)


class Branch(Model):
    """Where a fork began."""

    session: str
    entries: int
    """Entries of that session's journal that came before, the fork's own included."""


class Opened(Model):
    """The first entry."""

    kind: Literal["open"] = "open"
    version: Literal[1] = 1
    session: str
    env: EnvSpec
    ref: TaskRef
    public: TaskPublic
    parent: Branch | None = None
    time: float
    """Seconds since 1970."""


class WasReset(Model):
    """The episode began."""

    kind: Literal["reset"] = "reset"
    view: str
    """Hash of what the agent saw."""


class Stepped(Model):
    """A turn."""

    kind: Literal["step"] = "step"
    turn: int
    action: Action
    view: str
    """Hash of what the agent saw."""
    digest: str
    terms: tuple[RewardTerm, ...]
    milestones: tuple[str, ...]
    end: EndReason | None
    score: float | None


class Concluded(Model):
    """The episode was ended from outside."""

    kind: Literal["conclude"] = "conclude"
    asked: EndReason
    error: str
    end: EndReason
    score: float | None


class Forked(Model):
    """Other sessions went on from here."""

    kind: Literal["fork"] = "fork"
    twins: tuple[str, ...]


class Snapped(Model):
    """A snapshot was taken."""

    kind: Literal["snapshot"] = "snapshot"
    name: str


class Restored(Model):
    """The session went back to a snapshot."""

    kind: Literal["restore"] = "restore"
    name: str


Entry: TypeAlias = Annotated[
    Opened | WasReset | Stepped | Concluded | Forked | Snapped | Restored, Field(discriminator="kind")
]
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)


def view_hash(view: AgentView) -> str:
    """What is kept of a view."""
    return hashlib.sha256(view.model_dump_json().encode()).hexdigest()[:32]


def stepped(action: Action, step: Step) -> Stepped:
    """The entry of a turn."""
    record = step.record
    assert record is not None
    return Stepped(
        turn=record.turn,
        action=action,
        view=view_hash(step.view),
        digest=record.digest,
        terms=record.terms,
        milestones=record.milestones,
        end=record.end,
        score=record.score,
    )


# ---------------------------------------------------------------- writing


class Journal:
    """The folder of the files. Use it as ``async with``."""

    def __init__(self, folder: Path) -> None:
        self.written = 0
        """Bytes since it was begun."""
        self._folder = folder
        self.dirty: set[SessionLog] = set()
        """What was written to, but not forced to the disk."""
        self._syncing = asyncio.Lock()
        self._syncer: asyncio.Task[None] | None = None

    def make_folder(self) -> None:
        """Make it where it is missing. Raises ``UsageError`` where nothing can be written there."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError:
            raise UsageError(f"journal {self._folder}: is a file; name a folder") from None
        except OSError as error:
            raise UsageError(f"journal {self._folder}: {error.strerror}") from error
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise UsageError(f"journal {self._folder}: no permission to write there")

    async def __aenter__(self) -> Self:
        """Make the folder where it is missing. Raises ``UsageError``."""
        self.make_folder()
        self._syncer = asyncio.create_task(self._sync(), name="journal")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Force to the disk what is not yet there."""
        assert self._syncer is not None
        self._syncer.cancel()
        await asyncio.wait([self._syncer])
        await self._sync_now()

    def begin(
        self, name: str, env: EnvSpec, ref: TaskRef, public: TaskPublic, parent: Branch | None = None
    ) -> SessionLog:
        """A session's file. Raises :class:`Refusal` where it cannot be made, as for a name that was used."""
        path = self._folder / f"{name}{SUFFIX}"
        try:
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise Refusal(Code.DUPLICATE_SESSION, f"the journal has a session {name!r} already") from None
        except OSError as error:
            raise Refusal(Code.JOURNAL, f"a journal cannot be begun: {error.strerror}") from error
        log = SessionLog(file, self)
        opened = Opened(session=name, env=env, ref=ref, public=public, parent=parent, time=time.time())
        try:
            log.write(opened)
        except BaseException:
            log.close()
            path.unlink()
            raise
        return log

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            await asyncio.shield(self._sync_now())

    async def _sync_now(self) -> None:
        async with self._syncing:
            # What is closed from here on is dirty again, and its file is still open then.
            logs = tuple((log, log.closed) for log in self.dirty)
            self.dirty.clear()
            if logs:
                await asyncio.to_thread(self._flush, logs)

    def _flush(self, logs: Sequence[tuple[SessionLog, bool]]) -> None:
        for log, close in logs:
            log.flush(close=close)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # new files have names only then
        finally:
            os.close(folder)


class SessionLog:
    """One session's file."""

    def __init__(self, file: int, journal: Journal) -> None:
        self.entries = 0
        self._file, self._journal = file, journal
        self._size = 0
        self.closed = False
        self._failed: OSError | None = None

    def write(self, entry: Entry) -> None:
        """Add an entry. Raises :class:`Refusal` where that is not possible; then nothing was added."""
        body = entry.model_dump_json().encode()
        line = b"%08x %d %s\n" % (zlib.crc32(body), len(body), body)
        try:
            if self._failed is not None:
                raise self._failed
            written = os.write(self._file, line)
            if written < len(line):
                os.truncate(self._file, self._size)
                raise OSError(28, "no space left")
        except OSError as error:
            self._failed = error
            raise Refusal(Code.JOURNAL, f"the call could not be journalled: {error.strerror}") from error
        self._size += written
        self._journal.written += written
        self.entries += 1
        self._journal.dirty.add(self)

    def close(self) -> None:
        """Nothing more comes; the file is closed when it is on the disk."""
        self.closed = True
        self._journal.dirty.add(self)

    def flush(self, *, close: bool) -> None:
        """Force it to the disk, and close the file; in a thread."""
        try:
            os.fsync(self._file)
        except OSError as error:
            logger.exception("A journal could not be forced to the disk")
            self._failed = error
        if close:
            os.close(self._file)


# ---------------------------------------------------------------- reading


def read_journal(folder: Path, session: str) -> list[Entry]:
    """A session's entries, without a torn last one. Raises ``UsageError`` for a session that is not there
    and for a file that is damaged before its end."""
    path = folder / f"{session}{SUFFIX}"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        names = (path.stem for path in folder.glob(f"*{SUFFIX}"))
        raise unknown(f"session in journal {folder}", session, names) from None
    lines = data.split(b"\n")
    entries: list[Entry] = []
    for number, line in enumerate(lines):
        entry = _read(line)
        if entry is None:
            if any(_read(later) is not None for later in lines[number + 1 :]):
                raise UsageError(f"{path}: damaged in line {number + 1}, before its end")
            break
        entries.append(entry)
    if not entries or not isinstance(entries[0], Opened):
        raise UsageError(f"{path}: does not begin as a journal does")
    return entries


def _read(line: bytes) -> Entry | None:
    match = _LINE.fullmatch(line)
    if match is None or len(match[3]) != int(match[2]) or zlib.crc32(match[3]) != int(match[1], 16):
        return None
    try:
        return _ENTRY.validate_json(match[3], strict=True)
    except ValidationError:
        return None
