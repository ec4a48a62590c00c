"""What the factory keeps on the disk while it works: what came of each bug, so that none is tried twice.

``progress.jsonl`` has a line for each baseline, bug tried and task admitted, when it is known. The tasks are
made of them in the order of the bugs, so a build that was interrupted and goes on ends with the same tasks.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from turnwise.envs.errors import UsageError
from turnwise.envs.swe.factory.baseline import Baseline
from turnwise.envs.swe.factory.fresh import Calls
from turnwise.envs.swe.formats.built import BuiltRow
from turnwise.envs.types import Model

PROGRESS = "progress.jsonl"


class DropReason(StrEnum):
    """Why a bug made no task."""

    SURVIVED = "survived"
    """No test notices it."""
    BROAD = "broad"
    """It breaks more than half of the tests, or too many."""
    HANG = "hang"
    """The tests do not end in time."""
    STOPPED = "stopped"
    """The run came to no end of its own, or a test file could not be read."""
    UNTOLD = "untold"
    """No issue could be written that tells what is wrong and not where."""
    EXPOSED = "exposed"
    """Lines of the repair are in another file, too."""
    SHOWN = "shown"
    """Tests that fail could not be cut out of what the agent sees."""
    FLICKER = "flicker"
    """A second run said otherwise."""
    UNHEALED = "unhealed"
    """The reference repair does not make all tests pass."""
    UNJUDGED = "unjudged"
    """The judge failed at its seeded tests; the log says how."""
    ONE_PLACE = "one_place"
    """Of two bugs one alone makes all the difference."""
    DUPLICATE = "duplicate"
    """Another task has the same patch, or the same function and failing tests."""
    CROWDED = "crowded"
    """Its function has enough tasks."""


class Dropped(Model):
    """A bug that made no task."""

    kind: Literal["dropped"] = "dropped"
    package: str
    bug: str
    reason: DropReason
    seconds: float


class Kept(Model):
    """A bug that made a task."""

    kind: Literal["kept"] = "kept"
    package: str
    bug: str
    row: BuiltRow
    failing: tuple[str, ...]
    seconds: float


class Admitted(Model):
    """How the task of a bug can be graded."""

    kind: Literal["admitted"] = "admitted"
    package: str
    bug: str
    fields: dict[str, JsonValue]
    """Of the task: its class, and what the grader needs."""
    seconds: float


class Prepared(Model):
    """A package that is ready, with its repository in a folder."""

    kind: Literal["prepared"] = "prepared"
    source: str
    """As it was asked for."""
    name: str
    """Of the project."""
    package: str
    """Name and version."""
    sdist: str
    sha256: str
    requires: tuple[str, ...] = ()
    """What is installed for it, pinned."""
    sources: tuple[str, ...]
    modules: tuple[str, ...]
    baseline: Baseline
    calls: Calls
    seconds: float


class Order(Model):
    """What was asked for; a folder holds what came of one order."""

    kind: Literal["order"] = "order"
    sources: tuple[str, ...]
    tasks: int
    seed: int
    beside: tuple[str, ...] = ()
    """What is installed for every package, beside what it declares."""


Outcome: TypeAlias = Kept | Dropped
Record: TypeAlias = Order | Prepared | Kept | Dropped | Admitted
_record: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


class Records:
    """The records of a folder, which goes on from what is there. Raises ``UsageError`` for another order."""

    def __init__(self, folder: Path, order: Order) -> None:
        self._path = folder / PROGRESS
        self.prepared: dict[str, Prepared] = {}
        """By source."""
        self.outcomes: dict[tuple[str, str], Outcome] = {}
        """By package and bug."""
        self.admitted: dict[tuple[str, str], Admitted] = {}
        found = list(self._read())
        if found and found[0] != order:
            raise UsageError(
                f"--out {str(folder)!r} holds another build ({PROGRESS}); give the same --from, --tasks and "
                "--seed to go on with it, or another folder"
            )
        for record in found:
            self._take(record)
        if not found:
            if folder.is_dir() and any(folder.iterdir()):
                raise UsageError(
                    f"--out {str(folder)!r} is not empty and holds no build; give another folder"
                )
            folder.mkdir(parents=True, exist_ok=True)
            self.add(order)

    def _read(self) -> list[Record]:
        if not self._path.is_file():
            return []
        text = self._path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # the last line may be torn
        if whole != text:
            self._path.write_text(whole, encoding="utf-8")
        try:
            return [_record.validate_python(json.loads(line), strict=False) for line in whole.splitlines()]
        except (ValidationError, ValueError):
            raise UsageError(f"{self._path} cannot be read; give another folder") from None

    def _take(self, record: Record) -> None:
        match record:
            case Prepared():
                self.prepared[record.source] = record
            case Kept() | Dropped():
                self.outcomes[record.package, record.bug] = record
            case Admitted():
                self.admitted[record.package, record.bug] = record

    def add(self, record: Record) -> None:
        """Keep a record, on the disk."""
        self._take(record)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(record.model_dump_json() + "\n")
