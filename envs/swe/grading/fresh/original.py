"""The original package in the judge, where its name belongs to the package under test.

Its files are in an archive beside the hidden tests. Only while the original is asked do imports find them:
modules of its name that the tests have are put aside, and come back. Functions that were found to reach for
files, processes or the network are never asked; should one do so all the same, with an input that is new,
an audit hook refuses.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

STANDARD = (
    importlib.machinery.BuiltinImporter,
    importlib.machinery.FrozenImporter,
    importlib.machinery.PathFinder,
)
HARMLESS = frozenset({"os.listdir", "os.scandir", "os.fspath"})
REFUSED = (
    "os.", "shutil.", "subprocess.", "socket.", "ctypes.", "tempfile.", "webbrowser.", "urllib.", "ftplib.",
    "smtplib.", "sqlite3.", "pty.", "fcntl.",
)  # fmt: skip
_watch: list[list[str]] = []
"""What was refused, of each guard that is up."""


class Outside(OSError):
    """The package reached for something that is not its own."""


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _watch:
        return
    writes = event == "open" and bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
    if writes or (event.startswith(REFUSED) and event not in HARMLESS):
        _watch[-1].append(event)
        raise Outside(event)


_hooked: list[bool] = []


class Guard:
    """While it is up, nothing outside is touched; ``refused`` has what was tried."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def __enter__(self) -> Guard:
        if not _hooked:
            sys.addaudithook(_audit)
            _hooked.append(True)
        _watch.append(self.refused)
        return self

    def __exit__(self, *error: object) -> None:
        _watch.pop()


def function(name: str) -> Callable[..., Any]:
    """``module:name``, imported."""
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


class Original:
    """A package out of an archive. Its modules stay what they are from one use to the next."""

    def __init__(self, archive: str, roots: Sequence[str], packages: Sequence[str]) -> None:
        folder = tempfile.mkdtemp(prefix="original-")
        with zipfile.ZipFile(archive) as files:
            files.extractall(folder)
        self._roots = [os.path.normpath(os.path.join(folder, root)) for root in roots]
        self._packages = frozenset(packages)
        self._modules: dict[str, ModuleType] = {}

    def __enter__(self) -> None:
        self._before = sys.meta_path[:], sys.path[:], self._taken()
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder in STANDARD]
        sys.path[:0] = self._roots
        sys.modules.update(self._modules)
        importlib.invalidate_caches()

    def __exit__(self, *error: object) -> None:
        self._modules = self._taken()
        sys.meta_path[:], sys.path[:], modules = self._before
        sys.modules.update(modules)

    def _taken(self) -> dict[str, ModuleType]:
        """The modules of the package, taken away from everybody."""
        names = [name for name in sys.modules if name.partition(".")[0] in self._packages]
        return {name: sys.modules.pop(name) for name in names}
