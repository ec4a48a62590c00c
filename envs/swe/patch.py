"""Unified diffs, read and applied to bytes in memory: no program runs, nothing is guessed.

A hunk applies where its old lines are, to the byte; if they have moved, at the nearest place. Renames,
deletions and new files are understood, binary patches and submodules are not.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from turnwise.envs.swe.task import Changes

_HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
NOTHING = "/dev/null"


class PatchFailed(ValueError):
    """The patch cannot be read, or does not apply; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Hunk:
    start: int
    """Of the old lines, counted from 0."""
    old: list[bytes]
    new: list[bytes]


@dataclass(slots=True)
class FilePatch:
    """What a patch does to one file."""

    old: str
    """Its path before; ``/dev/null`` for a new one."""
    new: str
    """Its path after; ``/dev/null`` where it is deleted."""
    hunks: list[Hunk] = field(default_factory=list)


def read_patch(text: str) -> list[FilePatch]:
    """The files of a unified diff. Raises :class:`PatchFailed`."""
    lines = text.encode().splitlines(keepends=True)
    files: list[FilePatch] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith(b"--- ") and at + 1 < len(lines) and lines[at + 1].startswith(b"+++ "):
            if not (files and files[-1].old == _path(line) and not files[-1].hunks):
                files.append(FilePatch("", ""))
            files[-1].old, files[-1].new = _path(line), _path(lines[at + 1])
            at += 2
        elif line.startswith(b"@@ ") and files:
            at = _read_hunk(lines, at, files[-1])
        elif line.startswith((b"Subproject commit", b"GIT binary patch", b"Binary files ")):
            what = "a submodule" if line.startswith(b"Sub") else "a binary file"
            raise PatchFailed(f"line {at + 1}: it changes {what}, which is not supported")
        elif line.startswith(b"rename from "):
            files.append(FilePatch(line[12:].strip().decode(), lines[at + 1][10:].strip().decode()))
            at += 2
        else:
            at += 1
    if not files and text.strip():
        raise PatchFailed("it is no unified diff: it names no file")
    return files


def _path(line: bytes) -> str:
    name = line[4:].split(b"\t")[0].strip().decode(errors="replace")
    if name.startswith('"'):
        raise PatchFailed(f"quoted path {name} is not supported")
    return name if name == NOTHING else re.sub(r"^[ab]/", "", name)


def _read_hunk(lines: list[bytes], at: int, file: FilePatch) -> int:
    match = _HUNK.match(lines[at])
    if match is None:
        raise PatchFailed(f"line {at + 1}: {lines[at].decode(errors='replace').strip()!r} is no hunk")
    start, old_left, new_left = int(match[1]), int(match[2] or 1), int(match[4] or 1)
    hunk = Hunk(max(start - 1, 0) if old_left else start, [], [])
    at += 1
    while at < len(lines) and (old_left > 0 or new_left > 0 or lines[at].startswith(b"\\")):
        mark, body = lines[at][:1], lines[at][1:]
        if mark == b"\\":  # the line before has no end
            _unend(hunk, lines[at - 1][:1])
        elif mark in (b" ", b"\n", b"-"):
            hunk.old.append(body if mark != b"\n" else b"\n")
            old_left -= 1
        if mark in (b" ", b"\n", b"+"):
            hunk.new.append(body if mark != b"\n" else b"\n")
            new_left -= 1
        elif mark not in (b"-", b"\\"):
            raise PatchFailed(f"line {at + 1}: a hunk ends too early")
        at += 1
    if old_left or new_left:
        raise PatchFailed(f"line {at}: a hunk ends too early")
    file.hunks.append(hunk)
    return at


def _unend(hunk: Hunk, mark: bytes) -> None:
    for side, marks in ((hunk.old, b" -"), (hunk.new, b" +")):
        if mark in (marks[:1], marks[1:]) and side:
            side[-1] = side[-1].removesuffix(b"\n")


def touched(text: str) -> list[str]:
    """The paths that a patch reads or writes. Raises :class:`PatchFailed`."""
    paths = (path for file in read_patch(text) for path in (file.old, file.new) if path != NOTHING)
    return list(dict.fromkeys(paths))


def apply_patch(text: str, base: Mapping[str, bytes]) -> Changes:
    """What a patch changes of the files given. Raises :class:`PatchFailed`."""
    changes: Changes = {}
    for file in read_patch(text):
        before = b""
        if file.old != NOTHING:
            found = changes.get(file.old, base.get(file.old))
            if found is None:
                raise PatchFailed(f"{file.old}: there is no such file")
            before = found
        after = _applied(file, before)
        if file.old not in (NOTHING, file.new):
            changes[file.old] = None
        if file.new != NOTHING:
            changes[file.new] = after
    return changes


def _applied(file: FilePatch, before: bytes) -> bytes:
    lines, shift = before.splitlines(keepends=True), 0
    for hunk in file.hunks:
        place = _place(lines, hunk.old, hunk.start + shift)
        if place is None:
            raise PatchFailed(f"{file.old}: line {hunk.start + 1}: the lines to be changed are not there")
        lines[place : place + len(hunk.old)] = hunk.new
        shift = place - hunk.start + len(hunk.new) - len(hunk.old)
    return b"".join(lines)


def _place(lines: list[bytes], old: list[bytes], wanted: int) -> int | None:
    def near() -> Iterator[int]:
        for distance in range(len(lines) + 1):
            yield from {wanted - distance, wanted + distance}

    return next((at for at in near() if at >= 0 and lines[at : at + len(old)] == old), None)


def make_patch(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> str:
    """The unified diff between two sets of text files."""
    parts = []
    for path in sorted({*before, *after}):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        names = (f"a/{path}" if old is not None else NOTHING, f"b/{path}" if new is not None else NOTHING)
        one, two = (_lines(side or b"") for side in (old, new))
        for line in difflib.unified_diff(one, two, *names):
            parts.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(parts)


def _lines(data: bytes) -> list[str]:
    """As :func:`read_patch` takes lines: text has more characters that end one."""
    return [line.decode() for line in data.splitlines(keepends=True)]
