"""The folder in which the workers of one server meet, and those of servers that were killed.

Its server holds a lock on it for as long as it lives, however it ends. So the next server to start on this
machine knows the folders that nobody will remove: it can lock them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "turnwise-serve-"
_UNLOCKED = "turnwise-new-"


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder of this server alone. Removes those of this user's servers that were killed."""
    _sweep()
    new = Path(tempfile.mkdtemp(prefix=_UNLOCKED))
    lock = _locked(new)
    folder = new.with_name(PREFIX + new.name.removeprefix(_UNLOCKED))
    new.rename(folder)  # locked from when it has this name
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # it is in use, another's, or just being removed
            if folder.lstat().st_uid != os.geteuid():
                continue
            lock = _locked(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _locked(folder: Path) -> int:
    """A descriptor that holds the lock until it is closed. Raises ``OSError`` where another does."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
