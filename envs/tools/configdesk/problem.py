"""What a task of the desk consists of, and the syntax of its configuration files.

A file holds lines of ``key = value``; the sign may be ``=`` or ``:``, spaces are free, and what follows
the value on its line is a comment. Changing a value leaves every other byte as it is.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

KEY = re.compile(r"[a-z][\w.]*", re.ASCII)
ENTRY = re.compile(rb"^([a-z][\w.]*)[ \t]*[=:][ \t]*(\S+)", re.MULTILINE)


class Spot(NamedTuple):
    """A value's place."""

    word: str
    """What to look for in order to find the file."""
    file: str
    key: str
    value: str
    """What is there, or must be there in the end."""


class Copy(NamedTuple):
    """A change whose value has to be found: it is elsewhere in the files, or follows from what is."""

    reads: tuple[Spot, ...]
    """What has to be read, in order; the last is the source of the value."""
    target: Spot


@dataclass(frozen=True, slots=True)
class Problem:
    """A task with its answer; never leaves the environment's process."""

    instruction: str
    tree: dict[str, bytes]
    """The files at the start, by the name the agent knows them under."""
    copies: tuple[Copy, ...]
    terse: bool
    """Tools answer in single words (levels 1 and 2)."""
    words: tuple[str, ...]
    """What one may look for."""
    values: tuple[str, ...]
    """What one may try as a value."""
    edits: tuple[Spot, ...] = ()
    """Changes that the instruction gives outright: the file, the key and the value it must have."""

    @property
    def targets(self) -> tuple[Spot, ...]:
        """The place and new value of every change."""
        return (*self.edits, *(copy.target for copy in self.copies))

    def path(self, name: str) -> str:
        """A file's path below the project's folder; at the terse levels names are bare stems."""
        return f"{name}.conf" if self.terse else name

    def expected(self) -> dict[str, bytes]:
        """The files as they must be in the end."""
        tree = dict(self.tree)
        for spot in self.targets:
            changed = with_value(tree[spot.file], spot.key, spot.value)
            if changed is None:
                raise KeyError(f"{spot.file} has no key {spot.key}")
            tree[spot.file] = changed
        return tree


class Level(Protocol):
    """The size of a level's tasks."""

    @property
    def turns(self) -> int:
        """The limit of an episode."""
        ...

    def draw(self, rng: random.Random) -> Question:
        """A question of this level."""
        ...


class Question(Protocol):
    """What a task asks, drawn before the files around it: it names the task, and it is cheap."""

    @property
    def instruction(self) -> str:
        """What the agent is told."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for two tasks that ask the same thing of the same values."""
        ...

    def problem(self, rng: random.Random) -> Problem:
        """The whole task, its files drawn from ``rng``."""
        ...


def entries(data: bytes) -> dict[str, str]:
    """The values of a file's keys, in order."""
    return {key.decode(): value.decode() for key, value in ENTRY.findall(data)}


def _find(data: bytes, key: str) -> re.Match[bytes] | None:
    if not KEY.fullmatch(key):
        return None  # "# size" would find an entry that is commented out
    return re.search(rb"^%s[ \t]*[=:][ \t]*(\S+)" % re.escape(key.encode()), data, re.MULTILINE)


def value_of(data: bytes, key: str) -> str | None:
    """A key's value, or None where the file does not have it."""
    match = _find(data, key)
    return match[1].decode() if match else None


def with_value(data: bytes, key: str, value: str) -> bytes | None:
    """The file with another value of a key, or None where it does not have the key."""
    match = _find(data, key)
    return data[: match.start(1)] + value.encode() + data[match.end(1) :] if match else None


def differences(found: bytes, wanted: Mapping[str, str]) -> dict[str, str]:
    """The keys of a file whose value is not the one wanted, with that one."""
    real = entries(found)
    return {key: value for key, value in wanted.items() if real.get(key) != value}
