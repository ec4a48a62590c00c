"""Levels 1 and 2: a few files, a few keys, and single words from small pools for everything.

A model of less than a million parameters with a vocabulary of some dozens of words can learn these.
Every key is in exactly one file. A question is ``copy timeout to retries``: give ``retries`` the value
that ``timeout`` has.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

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

    def draw(self, rng: random.Random) -> SmallQuestion:
        """A question of this level."""
        keys = rng.sample(KEYS[: self.files * self.keys], 2 * self.copies)
        moves = []
        for source, target in zip(keys[::2], keys[1::2], strict=True):
            here, there = rng.sample(FILES[: self.files], 2)
            moves.append(Move(source, here, target, there, *rng.sample(VALUES[: self.values], 2)))
        return SmallQuestion(self, tuple(moves))

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


@dataclass(frozen=True, slots=True)
class SmallQuestion:
    """Which copies, between which files, of which values."""

    level: Small
    moves: tuple[Move, ...]

    @property
    def instruction(self) -> str:
        """``copy A to B``, several joined by ``and``."""
        return " and ".join(f"copy {move.source} to {move.target}" for move in self.moves)

    @property
    def fingerprint(self) -> str:
        """The moves, in whatever order they are asked for."""
        return repr(sorted(tuple(move) for move in self.moves))

    def problem(self, rng: random.Random) -> Problem:
        """Put the other keys where there is room, with values at random."""
        level = self.level
        files: dict[str, dict[str, str]] = {name: {} for name in FILES[: level.files]}
        for move in self.moves:
            files[move.source_file][move.source] = move.value
            files[move.target_file][move.target] = move.stale
        keys, values = KEYS[: level.files * level.keys], VALUES[: level.values]
        placed = {key for move in self.moves for key in (move.source, move.target)}
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
        return Problem(self.instruction, tree, copies, terse=True, words=keys, values=values)


SMALL = {
    1: Small(files=5, keys=2, values=10, copies=1, turns=12),
    2: Small(files=8, keys=3, values=20, copies=2, turns=24),
}
