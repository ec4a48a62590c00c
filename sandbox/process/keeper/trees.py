"""Work on trees of files that must be killable: removing one, searching in one."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator

BINARY_PROBE = 8192
"""A file with a NUL in this many of its first bytes is no text."""


def remove(path: str) -> None:
    """Remove a file or a tree, directories closed to us included. To find nothing is no error."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return
    except PermissionError:
        os.chmod(path, 0o700)
        for top, names, _ in os.walk(path):
            for name in names:
                if not os.path.islink(os.path.join(top, name)):
                    os.chmod(os.path.join(top, name), 0o700)
        shutil.rmtree(path)


def regular_files(path: str) -> Iterator[str]:
    """Every regular file at or below a path, in path order. Symbolic links are not followed."""
    paths = [os.path.join(top, name) for top, _, names in os.walk(path) for name in names]
    for name in sorted(paths) if os.path.isdir(path) else [path]:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISREG(os.lstat(name).st_mode):
                yield name


def search(pattern: str, path: str, limit: int) -> list[tuple[str, int, str]]:
    """Lines that match, as (file, line number, line), over all text files that we may read."""
    expression = re.compile(pattern)
    found: list[tuple[str, int, str]] = []
    for name in regular_files(path):
        with contextlib.suppress(FileNotFoundError, PermissionError), open(name, "rb") as file:
            if b"\0" in file.read(BINARY_PROBE):
                continue
            file.seek(0)
            for number, raw in enumerate(file, 1):
                line = raw.rstrip(b"\r\n").decode("utf-8", "replace")
                if len(found) == limit:
                    return found
                if expression.search(line):
                    found.append((name, number, line))
    return found


def attempt(work: Callable[..., object], *args: object) -> dict[str, object]:
    """The result of some work, or why it failed, in a form that can be sent."""
    try:
        return {"value": work(*args)}
    except OSError as error:
        return {"error": error.strerror, "errno": error.errno}
