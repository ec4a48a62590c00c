"""File operations, made in the agent's place: its ids, no capability, its root.

The resident must not be talked into opening its own files (a link to ``/proc/self/mem`` would edit
the resident) or into waiting (a FIFO). So magic links are refused by the kernel or, where it cannot, by
:mod:`turnwise.sandbox.namespaces.walking`; anything on procfs by its device number; and anything that is
no regular file or directory by its type.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from turnwise.sandbox.namespaces import syscalls
from turnwise.sandbox.namespaces.channel import Head, LimitError
from turnwise.sandbox.namespaces.walking import open_walking

WORKSPACE = "/workspace"
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
Answer = tuple[Head, bytes]


def absolute(path: str) -> str:
    if "\0" in path:
        raise ValueError(f"path {path!r} contains a NUL character")
    return os.path.normpath(os.path.join(WORKSPACE, path)) if not path.startswith("/") else path


class Files:
    def __init__(self) -> None:
        self._procfs = os.stat("/proc").st_dev

    def open(self, path: str, flags: int, mode: int = 0) -> int:
        """A regular file; never waits."""
        try:
            fd = self._open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, mode)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ELOOP):  # a FIFO or socket; a magic link
                raise PermissionError(errno.EACCES, "not a regular file", path) from error
            raise
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_dev == self._procfs:
            os.close(fd)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            raise PermissionError(errno.EACCES, "not a regular file", path)
        return fd

    def _open(self, path: str, flags: int, mode: int) -> int:
        try:
            return syscalls.open_beneath_links(path, flags, mode)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            return open_walking(path, flags, mode, self._procfs)

    def read(self, head: Head, _: bytes) -> Answer:
        path = absolute(head["path"])
        with named(path), open(self.open(path, os.O_RDONLY), "rb", buffering=0) as file:
            if head["offset"]:
                file.seek(head["offset"])
            return {}, _read(file, head["limit"])

    def write(self, head: Head, body: bytes) -> Answer:
        self._write(absolute(head["path"]), memoryview(body), head["mode"])
        return {}, b""

    def write_tree(self, head: Head, body: bytes) -> Answer:
        at, view = 0, memoryview(body)
        for path, size in head["files"]:
            self._write(absolute(path), view[at : at + size], 0o644)
            at += size
        return {}, b""

    def _write(self, path: str, data: memoryview, mode: int) -> None:
        with named(path):
            try:
                fd = self.open(path, os.O_WRONLY | os.O_CREAT, mode)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                fd = self.open(path, os.O_WRONLY | os.O_CREAT, mode)
            try:
                os.ftruncate(fd, 0)
                try:
                    while data:
                        data = data[os.write(fd, data) :]
                except OSError:
                    os.ftruncate(fd, 0)  # what of it fitted would keep the disk full
                    raise
                os.fchmod(fd, mode)
            finally:
                os.close(fd)

    def list_directory(self, head: Head, _: bytes) -> Answer:
        path = absolute(head["path"])
        with os.scandir(path) as entries:
            infos = [_info(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        return {"entries": sorted(infos, key=lambda info: str(info["name"]))}, b""

    def stat(self, head: Head, _: bytes) -> Answer:
        path = absolute(head["path"])
        return {"info": _info(os.path.basename(path.rstrip("/")) or "/", os.lstat(path))}, b""

    def delete(self, head: Head, _: bytes) -> Answer:
        path = absolute(head["path"])
        if stat.S_ISDIR(os.lstat(path).st_mode):
            _delete_directory(path)
        else:
            os.unlink(path)
        return {}, b""

    def read_tree(self, head: Head, _: bytes) -> Answer:
        """Every regular file; nothing of the agent runs any more, so nothing changes meanwhile."""
        top, limit = absolute(head["path"]), head["limit"]
        if not stat.S_ISDIR(os.stat(top).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), top)
        names: list[tuple[str, int]] = []
        parts: list[bytes] = []
        total = 0
        with reading_all():
            for entry in self.walk(top):
                with open(self.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
                    data = _read(file, limit - total + 1)
                total += len(data)
                if total > limit:
                    raise LimitError("disk", f"the files below {top} are larger than {limit} bytes")
                names.append((os.path.relpath(entry.path, top), len(data)))
                parts.append(data)
        return {"files": names}, b"".join(parts)

    def walk(self, top: str, *ignored: type[OSError]) -> Iterator[os.DirEntry[str]]:
        """Regular files below a directory, in the order of their paths; links are not followed.

        Directories that cannot be read for one of the ``ignored`` reasons are left out.
        """
        stack: list[os.DirEntry[str]] = []
        stack += reversed(self._sorted(top, ignored))
        while stack:
            entry = stack.pop()
            if entry.is_dir(follow_symlinks=False):
                stack += reversed(self._sorted(entry.path, ignored))
            elif entry.is_file(follow_symlinks=False):
                yield entry

    def _sorted(self, path: str, ignored: tuple[type[OSError], ...]) -> list[os.DirEntry[str]]:
        try:
            if os.stat(path).st_dev == self._procfs:
                return []
            with os.scandir(path) as entries:
                return sorted(entries, key=_path_order)
        except ignored:
            return []


def _path_order(entry: os.DirEntry[str]) -> str:
    """A directory's name sorts as the paths of what is in it do: with the slash."""
    return entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name


@contextmanager
def named(path: str) -> Iterator[None]:
    """Errors of operations on a descriptor name no path; say which it was."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise


@contextmanager
def reading_all() -> Iterator[None]:
    """Read also what the agent made unreadable; for when nothing of it runs."""
    effective, permitted = syscalls.capabilities()
    syscalls.set_capabilities(permitted, permitted)
    try:
        yield
    finally:
        syscalls.set_capabilities(effective, permitted)


def listen(path: str) -> socket.socket:
    """A Unix socket that listens at ``path``, in the place of another that may be there."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path) and stat.S_ISSOCK(os.lstat(path).st_mode):
        os.unlink(path)  # an earlier resident's
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        os.chmod(path, 0o777)
        listener.listen(64)
    except OSError as error:
        listener.close()
        number = errno.EEXIST if error.errno == errno.EADDRINUSE else error.errno or errno.ENAMETOOLONG
        raise OSError(number, os.strerror(number), path) from error
    return listener


def _read(file: Any, limit: int) -> bytes:
    parts = []
    while limit > 0 and (data := file.read(min(limit, 1 << 20))):
        parts.append(data)
        limit -= len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _info(name: str, status: os.stat_result) -> Head:
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "other")
    mode, links = stat.S_IMODE(status.st_mode), status.st_nlink
    return {"name": name, "kind": kind, "size": status.st_size, "mode": mode, "links": links}


def _delete_directory(top: str) -> None:
    """A whole tree, closed directories included. Each is emptied twice at most: the agent may fill it."""
    stack = [(top, False)]
    while stack:
        path, emptied = stack.pop()
        try:
            below = _unlink_files(path)
        except PermissionError:
            os.chmod(path, 0o700)
            below = _unlink_files(path)
        if below and not emptied:
            stack += [(path, True), *((directory, False) for directory in below)]
        else:
            os.rmdir(path)


def _unlink_files(path: str) -> list[str]:
    """Empty a directory of all but the directories in it, and tell these."""
    below = []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
            else:
                os.unlink(entry.path)
    return below
