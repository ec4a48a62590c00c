"""Opening a path link by link, where the kernel refuses no magic links: gVisor has no ``openat2``.

Each directory on the way is held open and each name is opened in it without following a link, so what was
looked at is what is used, however the agent exchanges names meanwhile. A link that lies on procfs is refused:
the magic ones are there, and what else is there is of no use to a caller.
"""

from __future__ import annotations

import errno
import os

MOST_LINKS = 40
"""As the kernel has it."""
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW


def open_walking(path: str, flags: int, mode: int, procfs: int) -> int:
    """``os.open`` of an absolute path; ``procfs`` is that file system's device. Raises ``OSError``: ELOOP for
    too many links, and for one on procfs."""
    place = os.open("/", _DIRECTORY)
    try:
        names, links = _names(path), 0
        while True:
            name = names.pop()
            wanted = (_DIRECTORY, 0) if names else (flags | os.O_NOFOLLOW, mode)
            try:
                found = os.open(name, *wanted, dir_fd=place)
            except OSError as error:
                target = _link(name, place, procfs, error)
                if links == MOST_LINKS or (not names and flags & os.O_NOFOLLOW):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from error
                links += 1
                names += _names(target)
                found = os.open("/" if target.startswith("/") else ".", _DIRECTORY, dir_fd=place)
            else:
                if not names:
                    return found
            os.close(place)
            place = found
    finally:
        os.close(place)


def _names(path: str) -> list[str]:
    """Those of a path, the last first. What ends in a slash is a directory."""
    return ["."] * path.endswith("/") + [name for name in reversed(path.split("/")) if name]


def _link(name: str, place: int, procfs: int, error: OSError) -> str:
    """Where the link leads that could not be opened as no link; raises ``error`` if it is none."""
    try:
        target = os.readlink(name, dir_fd=place)
    except OSError:
        raise error from None
    if os.fstat(place).st_dev == procfs:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
    return target
