"""Merging many layers into one, so that a chain of forks stays fast however deep it is.

What overlayfs would show of the layers is not enough: what they *hide* of the root below must stay
hidden. So they are applied to the target from the bottom up, as overlayfs reads them: a device 0:0
(whiteout) hides one name, and a directory marked opaque hides all below it. In the end the whiteouts
that hid only names of these layers go: overlayfs would list them as files nobody can open.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence


def merge(layers: Sequence[str], target: str, base: str, *, user: bool) -> None:
    """Merge layers (top first) that stood on ``base`` into the empty directory ``target``.

    ``user``: they were mounted with the option ``userxattr``.
    """
    merger = _Merger(target, "user.overlay." if user else "trusted.overlay.")
    for layer in reversed(layers):
        merger.apply(layer)
    merger.prune(base)


class _Merger:
    def __init__(self, target: str, prefix: str) -> None:
        self._target = target
        self._opaque = prefix + "opaque"
        # Where a copy came from: only true of the layer it was in.
        self._private = {prefix + name for name in ("origin", "impure", "nlink", "uuid")}

    def apply(self, layer: str) -> None:
        directories: list[tuple[str, str]] = []
        copies: dict[int, str] = {}
        stack = [""]
        while stack:
            below = stack.pop()
            directories.append((layer + below, self._target + below))
            for entry in _entries(layer + below):
                status = entry.stat(follow_symlinks=False)
                path = f"{below}/{entry.name}"
                if stat.S_ISDIR(status.st_mode):
                    self._directory(entry.path, self._target + path)
                    stack.append(path)
                elif status.st_ino in copies:
                    _remove(self._target + path)
                    os.link(copies[status.st_ino], self._target + path, follow_symlinks=False)
                else:
                    _remove(self._target + path)
                    self._copy(entry.path, self._target + path, status)
                    if status.st_nlink > 1 and not _is_whiteout(status):
                        copies[status.st_ino] = self._target + path
        for source, target in reversed(directories):
            self._attributes(source, target, os.lstat(source))

    def prune(self, base: str) -> None:
        """Remove the whiteouts that hide nothing of ``base``."""
        stack = [("", True)]
        while stack:
            below, over_base = stack.pop()
            over_base = over_base and self._opaque not in os.listxattr(self._target + below)
            attributes = os.lstat(self._target + below)
            for entry in _entries(self._target + below):
                path = f"{below}/{entry.name}"
                hidden = os.lstat(base + path) if over_base and os.path.lexists(base + path) else None
                if entry.is_dir(follow_symlinks=False):
                    stack.append((path, hidden is not None and stat.S_ISDIR(hidden.st_mode)))
                elif hidden is None and _is_whiteout(entry.stat(follow_symlinks=False)):
                    os.unlink(entry.path)
            os.utime(self._target + below, ns=(attributes.st_atime_ns, attributes.st_mtime_ns))

    def _directory(self, source: str, target: str) -> None:
        """Make or keep a directory. One that hides what was below it begins empty and says so."""
        try:
            existing = os.lstat(target)
        except FileNotFoundError:
            os.mkdir(target)
            return
        if not stat.S_ISDIR(existing.st_mode) or self._opaque in os.listxattr(source):
            _remove(target)
            os.mkdir(target)
            os.setxattr(target, self._opaque, b"y")

    def _copy(self, source: str, target: str, status: os.stat_result) -> None:
        mode = status.st_mode
        if stat.S_ISREG(mode):
            with open(source, "rb") as old, open(target, "xb") as new:
                _copy_data(old.fileno(), new.fileno(), status.st_size)
        elif stat.S_ISLNK(mode):
            os.symlink(os.readlink(source), target)
        else:
            os.mknod(target, mode, status.st_rdev)
        if not _is_whiteout(status):
            self._attributes(source, target, status)

    def _attributes(self, source: str, target: str, status: os.stat_result) -> None:
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(target, stat.S_IMODE(status.st_mode))
            for name in os.listxattr(source):
                if name not in self._private:
                    os.setxattr(target, name, os.getxattr(source, name))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _entries(path: str) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return list(entries)


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _copy_data(source: int, target: int, size: int) -> None:
    """Copy a file's data and keep its holes: a sparse file must not outgrow the quota."""
    os.ftruncate(target, size)
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:
            return  # ENXIO: only a hole is left
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(target, at, os.SEEK_SET)
        os.lseek(source, at, os.SEEK_SET)
        while at < end:
            at += os.sendfile(target, source, None, end - at)


def _remove(path: str) -> None:
    """Whatever is there, if anything."""
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
    except FileNotFoundError:
        return
    for root, folders, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(f"{root}/{name}")
        for name in folders:
            folder = f"{root}/{name}"
            os.unlink(folder) if os.path.islink(folder) else os.rmdir(folder)
    os.rmdir(path)
