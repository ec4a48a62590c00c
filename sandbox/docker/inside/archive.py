"""The writable directories as a stream of parts, and back: what a snapshot consists of.

A part is a list of entries and the bytes they share out among them. A large file comes in several entries,
each with its offset, so that a part stays small and holes stay holes. A directory comes twice: made open
before what is in it, closed as it was after. Everything in there is the agent's, so owners are not kept.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from turnwise.sandbox.namespaces.channel import Head
from turnwise.sandbox.namespaces.files import Answer, reading_all

Entry = dict[str, Any]
Part = tuple[list[Entry], bytes]

PART = 1 << 20
"""Bytes of content in a part, and about how many entries' worth of names."""
_ENTRY = 256
_FAR = 1 << 62
"""Beyond the end of any file."""


def pack(tops: list[str]) -> Iterator[Part]:
    """Everything in these directories, whose files nobody changes meanwhile."""
    seen: dict[tuple[int, int], str] = {}
    entries: list[Entry] = []
    bodies: list[bytes] = []
    size = 0
    with reading_all():
        for top in tops:
            for entry, body in _walk(top, seen):
                entries.append(entry)
                bodies.append(body)
                size += len(body) + _ENTRY
                if size >= PART:
                    yield entries, b"".join(bodies)
                    entries, bodies, size = [], [], 0
    yield entries, b"".join(bodies)


def _walk(path: str, seen: dict[tuple[int, int], str]) -> Iterator[tuple[Entry, bytes]]:
    """A directory that is there anyway or was made by the entry before, and all in it."""
    with os.scandir(path) as scan:
        found = sorted(scan, key=lambda entry: entry.name)
    for item in found:
        status = item.stat(follow_symlinks=False)
        common: Entry = {"path": item.path, "mode": stat.S_IMODE(status.st_mode), "time": status.st_mtime_ns}
        identity = (status.st_dev, status.st_ino)
        if stat.S_ISDIR(status.st_mode):
            yield {"kind": "directory", "path": item.path}, b""
            yield from _walk(item.path, seen)
        elif identity in seen:
            yield {"kind": "link", "path": item.path, "to": seen[identity]}, b""
        elif stat.S_ISREG(status.st_mode):
            seen[identity] = item.path
            yield from _file(common, status.st_size)
        elif stat.S_ISLNK(status.st_mode):
            yield {"kind": "symlink", "path": item.path, "to": os.readlink(item.path)}, b""
        elif stat.S_ISFIFO(status.st_mode):
            yield {**common, "kind": "pipe"}, b""
    own = os.stat(path)
    if own.st_uid != 0:  # a top directory of root's is as it always is
        yield (
            {
                "kind": "closing",
                "path": path,
                "mode": stat.S_IMODE(own.st_mode),
                "time": own.st_mtime_ns,
            },
            b"",
        )


def _file(common: Entry, size: int) -> Iterator[tuple[Entry, bytes]]:
    fd = os.open(common["path"], os.O_RDONLY | os.O_NOFOLLOW)
    try:
        at = 0
        while (start := _next_data(fd, at)) < size:
            data = os.pread(fd, min(_data_end(fd, start) - start, PART), start)
            if data.lstrip(b"\0"):
                yield {"kind": "data", "path": common["path"], "offset": start, "size": len(data)}, data
            at = start + len(data)
    finally:
        os.close(fd)
    yield {**common, "kind": "file", "length": size}, b""


def _next_data(fd: int, at: int) -> int:
    """Where the next bytes are that are no hole; far beyond the end when there are none."""
    return _seek(fd, at, os.SEEK_DATA, {errno.ENXIO: _FAR, errno.EINVAL: at})


def _data_end(fd: int, at: int) -> int:
    """Where the next hole is."""
    return _seek(fd, at, os.SEEK_HOLE, {errno.EINVAL: _FAR})


def _seek(fd: int, at: int, kind: int, otherwise: dict[int, int]) -> int:
    """What the kernel finds, or what its refusal stands for: gVisor's knows of no holes, and says EINVAL."""
    try:
        return os.lseek(fd, at, kind)
    except OSError as error:
        if error.errno not in otherwise:
            raise
        return otherwise[error.errno]


def unpack(head: Head, body: bytes) -> Answer:
    """Do what one part says. Parts come in order, into directories that were empty before the first."""
    at = 0
    for entry in head["entries"]:
        path = entry["path"]
        match entry["kind"]:
            case "directory":
                os.mkdir(path, 0o700)
            case "link":
                os.link(entry["to"], path)
            case "symlink":
                os.symlink(entry["to"], path)
            case "data":
                data = body[at : at + entry["size"]]
                at += len(data)
                with _opened(path) as fd:
                    os.pwrite(fd, data, entry["offset"])
            case "file":
                with _opened(path) as fd:
                    os.ftruncate(fd, entry["length"])
                _finish(entry)
            case "pipe":
                os.mkfifo(path)
                _finish(entry)
            case _:
                _finish(entry)
    return {}, b""


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _finish(entry: Entry) -> None:
    os.chmod(entry["path"], entry["mode"])
    os.utime(entry["path"], ns=(entry["time"], entry["time"]))
