"""A root file system as a tree of files: unpacked, put in order, measured.

Of a file its path, permissions and content count, of a link its target. Owners, times and devices do not:
in a sandbox there is one user, and nothing in an image gives a right to anybody (setuid).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from turnwise.sandbox import roots
from turnwise.sandbox.images.errors import ImageError

_TOLD_OF_THE_HOST = ("hostname", "hosts", "resolv.conf")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Measure:
    """What a tree comes down to."""

    digest: str
    """SHA-256 over every path with its kind, permissions and content, in order of the paths."""
    size: int
    """Bytes in files; what is linked twice counts once."""
    files: int
    """Entries of every kind."""


@contextmanager
def unpacking(root: Path) -> Iterator[IO[bytes]]:
    """Where to write a tar file that becomes the files below ``root``. Raises :class:`ImageError`."""
    command = ["tar", "--extract", "--file=-", f"--directory={root}", "--no-same-owner", "--same-permissions"]
    command += ["--exclude=./dev/*", "--exclude=dev/*", "--exclude=.dockerenv"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as tar:
        assert tar.stdin is not None
        assert tar.stderr is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # its own words say why, below
                yield tar.stdin
                tar.stdin.close()
            told = tar.stderr.read().decode(errors="replace").strip()
        except BaseException:
            tar.kill()
            raise
    if tar.returncode:
        raise ImageError(
            f"the archive could not be unpacked: {told.splitlines()[0] if told else 'tar failed'}"
        )


def settle(root: Path) -> None:
    """Make a tree fit to run on: its owner can read all of it, and it tells nothing of where it was made.

    Raises :class:`ImageError` for what is no root file system.
    """
    for path, status in _walk(root):
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            os.chmod(path, (mode & 0o1777) | 0o700)
        elif stat.S_ISREG(mode):
            os.chmod(path, (mode & 0o777) | 0o400)
        elif not stat.S_ISLNK(mode):
            os.unlink(path)  # a device, a pipe or a socket
    folder = root / "etc"
    if folder.is_symlink() or not folder.is_dir():
        raise ImageError("image: it has no /etc, so it is no root file system")
    for name in _TOLD_OF_THE_HOST:
        (folder / name).unlink(missing_ok=True)
    for name, text in roots.WRITTEN.items():
        if not os.path.lexists(folder / name):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)


def measure(root: Path) -> Measure:
    """The digest and the size of a tree. Raises ``OSError`` where it cannot be read."""
    seen = hashlib.sha256()
    contents: dict[tuple[int, int], str] = {}
    size = files = 0
    for path, status in sorted(_walk(root)):
        mode, key = status.st_mode, (status.st_dev, status.st_ino)
        content = ""
        if stat.S_ISLNK(mode):
            content = os.readlink(path)
        elif stat.S_ISREG(mode):
            if key not in contents:
                contents[key] = _hash(path)
                size += status.st_size
            content = contents[key]
        name = os.path.relpath(path, root)
        rights = "" if stat.S_ISLNK(mode) else oct(stat.S_IMODE(mode))
        seen.update(os.fsencode(f"{stat.S_IFMT(mode):o}\0{rights}\0{name}\0{content}\0"))
        files += 1
    return Measure(seen.hexdigest(), size, files)


def _hash(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry below ``root``, itself included; no link is followed. What is found may be removed."""
    yield str(root), os.lstat(root)
    stack = [str(root)]
    while stack:
        with os.scandir(stack.pop()) as entries:
            found = [(entry.path, entry.stat(follow_symlinks=False)) for entry in entries]
        yield from found
        stack += [path for path, status in found if stat.S_ISDIR(status.st_mode)]
