"""Levels 1 and 2: a few files, a few keys, and single words from small pools for everything.

A model of less than a million parameters with a vocabulary of some dozens of words can learn these.
Every key is in exactly one file. A question is ``copy timeout to retries``: give ``retries`` the value
that ``timeout`` has.

With a horizon, the number of changes is what makes a task long, while files, keys and values stay those
of the level. A copy takes six turns (find, open and read the source; find, open and set the target),
``check`` and ``submit`` one each. What makes up the difference are edits that need no search: ``set db
depth 20`` names file, key and value and takes two turns. Where there are edits no two changes share a
file, so nothing that one change found is of use to another and a task takes its horizon exactly.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from turnwise.envs.tools.configdesk.problem import Copy, Problem, Spot

FILES = ("api", "web", "db", "mail", "log", "auth", "queue", "cdn")
KEYS = (
    *("timeout", "retries", "port", "size", "rate", "depth", "limit", "delay", "quota", "burst"),
    *("workers", "threads", "ttl", "backlog", "batch", "window", "weight", "shards", "replicas", "budget"),
    *("level", "margin", "pause", "span"),
)
VALUES = (
    *("1", "2", "5", "8", "10", "20", "30", "60", "90", "off"),
    *("3", "4", "6", "12", "15", "25", "40", "50", "75", "auto"),
)
SPOKEN = (
    *("copy", "to", "and", "grep", "open", "get", "set", "check", "submit"),
    *("ok", "none", "pass", "fail", "submitted"),
    *("error", ":", "no", "file", "key", "bad", "value", "a", "first"),
)
"""The words of the instruction and of the tools, as the tools' messages have them."""


@dataclass(frozen=True, slots=True)
class Small:
    """The size of a level; its pools are the first words of those above."""

    files: int
    keys: int
    """Keys of one file."""
    values: int
    copies: int
    turns: int
    """The limit of an episode."""
    edits: int = 0
    """Changes that the instruction gives outright."""

    def at(self, horizon: int) -> Self:
        """This level with tasks that take so many turns; ``horizon`` is one of ``HORIZONS``."""
        edits, copies = HORIZONS[horizon]
        return replace(self, edits=edits, copies=copies, turns=horizon * 3 // 2)

    def draw(self, rng: random.Random) -> SmallQuestion:
        """A question of this level."""
        keys = rng.sample(KEYS[: self.files * self.keys], 2 * self.copies + self.edits)
        free, values = FILES[: self.files], VALUES[: self.values]
        moves, edits = [], []
        for source, target in zip(keys[self.edits :: 2], keys[self.edits + 1 :: 2], strict=True):
            here, there = rng.sample(free, 2)
            moves.append(Move(source, here, target, there, *rng.sample(values, 2)))
            if self.edits:
                free = tuple(file for file in free if file not in (here, there))
        for key, file in zip(keys[: self.edits], rng.sample(free, self.edits), strict=True):
            edits.append(Edit(file, key, *rng.sample(values, 2)))
        return SmallQuestion(self, tuple(edits), tuple(moves))

    def words(self) -> tuple[str, ...]:
        """Every word of the instruction, the calls and the observations."""
        keys = KEYS[: self.files * self.keys]
        return (*SPOKEN, *FILES[: self.files], *keys, *VALUES[: self.values])


class Move(NamedTuple):
    """One copy: from a key of a file to a key of another."""

    source: str
    source_file: str
    target: str
    target_file: str
    value: str
    """The source's."""
    stale: str
    """The target's at the start."""


class Edit(NamedTuple):
    """One change given outright: a key of a file gets a value."""

    file: str
    key: str
    value: str
    stale: str
    """What is there at the start; it need not be looked at, so it does not tell two questions apart."""


@dataclass(frozen=True, slots=True)
class SmallQuestion:
    """Which edits, and which copies, between which files, of which values."""

    level: Small
    edits: tuple[Edit, ...]
    moves: tuple[Move, ...]

    @property
    def instruction(self) -> str:
        """``set FILE KEY VALUE`` and ``copy A to B``, joined by ``and``."""
        edits = [f"set {edit.file} {edit.key} {edit.value}" for edit in self.edits]
        return " and ".join([*edits, *(f"copy {move.source} to {move.target}" for move in self.moves)])

    @property
    def fingerprint(self) -> str:
        """The edits and moves, in whatever order they are asked for."""
        edits = [(edit.file, edit.key, edit.value) for edit in self.edits]
        return repr(sorted([*edits, *(tuple(move) for move in self.moves)]))

    def problem(self, rng: random.Random) -> Problem:
        """Put the other keys where there is room, with values at random."""
        level = self.level
        files: dict[str, dict[str, str]] = {name: {} for name in FILES[: level.files]}
        for move in self.moves:
            files[move.source_file][move.source] = move.value
            files[move.target_file][move.target] = move.stale
        for edit in self.edits:
            files[edit.file][edit.key] = edit.stale
        keys, values = KEYS[: level.files * level.keys], VALUES[: level.values]
        placed = {key for held in files.values() for key in held}
        rest = [key for key in keys if key not in placed]
        rng.shuffle(rest)
        tree = {}
        for name, held in files.items():
            while len(held) < level.keys:
                held[rest.pop()] = rng.choice(values)
            lines = [f"{key} = {value}\n" for key, value in held.items()]
            rng.shuffle(lines)
            tree[name] = "".join(lines).encode()
        copies = tuple(
            Copy(
                (Spot(move.source, move.source_file, move.source, move.value),),
                Spot(move.target, move.target_file, move.target, move.value),
            )
            for move in self.moves
        )
        edits = tuple(Spot(edit.key, edit.file, edit.key, edit.value) for edit in self.edits)
        return Problem(self.instruction, tree, copies, True, words=keys, values=values, edits=edits)


HORIZONS = {4: (1, 0), 8: (0, 1), 16: (1, 2)}
"""The turns that a task takes, and the edits and copies that take them."""

SMALL = {
    1: Small(files=5, keys=2, values=10, copies=1, turns=12),
    2: Small(files=8, keys=3, values=20, copies=2, turns=24),
}
