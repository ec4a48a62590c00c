"""A bug: edits of a module's bytes, so that all but the spot stays as its authors wrote it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class BugKind(StrEnum):
    """What is wrong; in this order they take turns."""

    REWRITE = "rewrite"
    """A function's body is gone and has to be written."""
    COMPARISON = "comparison"
    ARITHMETIC = "arithmetic"
    BOOLEAN = "boolean"
    OFF_BY_ONE = "off_by_one"
    CONSTANT = "constant"
    ARGUMENTS = "arguments"
    """Two arguments of a call have changed places."""
    VARIABLE = "variable"
    """One parameter in the place of another."""
    BRANCH = "branch"
    """A branch is gone."""
    STATEMENT = "statement"
    """A statement is gone."""
    RETURNED = "returned"
    TWO_PLACES = "two_places"
    """Two bugs in two functions of one module."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes in the place of others."""

    start: int
    end: int
    new: bytes


@dataclass(frozen=True, slots=True)
class Bug:
    """One bug of one module."""

    kind: BugKind
    path: str
    functions: tuple[str, ...]
    """The outermost functions that it is in, as ``Class.method``."""
    lines: int
    """Of those functions."""
    edits: tuple[Edit, ...]

    @property
    def id(self) -> str:
        """Differs from that of every other bug of the package."""
        sha = hashlib.sha256(f"{self.kind} {self.path}".encode())
        for edit in self.edits:
            sha.update(f" {edit.start} {edit.end} ".encode() + edit.new)
        return sha.hexdigest()[:12]

    def overlaps(self, other: Bug) -> bool:
        """Whether both cannot be put in together."""
        return any(a.start <= b.end and b.start <= a.end for a in self.edits for b in other.edits)


def apply(data: bytes, edits: Sequence[Edit]) -> bytes:
    """The module with the edits made."""
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        data = data[: edit.start] + edit.new + data[edit.end :]
    return data


def works(data: bytes) -> bool:
    """Whether a module can be compiled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            compile(data, "module", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError):
            return False
    return True
