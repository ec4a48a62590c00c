"""An image of programs of this machine: copies of them and of all that they load.

Each is copied to the place it has here, with the links and folders that lead there, so that what is written
into programs about places stays true. ``ldd`` says which libraries they need.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from turnwise.sandbox import roots
from turnwise.sandbox.images.errors import ImageError
from turnwise.sandbox.linked import linked

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where commands in a sandbox look."""
WANTED = ("sh", "python3", "git")
BASICS = (
    *(
        "bash",
        "env",
        "cat",
        "ls",
        "cp",
        "mv",
        "rm",
        "mkdir",
        "mkfifo",
        "rmdir",
        "ln",
        "chmod",
        "touch",
        "head",
        "tail",
    ),
    *("sort", "uniq", "wc", "cut", "tr", "tee", "seq", "sleep", "date", "pwd", "echo", "printf", "test"),
    *("true", "false", "expr", "basename", "dirname", "readlink", "realpath", "mktemp", "stat", "du", "df"),
    *("id", "uname", "od", "sha256sum", "md5sum", "comm", "paste", "cmp", "diff", "patch", "grep", "sed"),
    *("awk", "find", "xargs", "tar", "gzip", "gunzip", "which", "ps", "kill", "nproc", "timeout", "yes"),
)
"""Beside what was asked for, those of these that the machine has."""
LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "turtledemo", "site-packages", "dist-packages", "lib2to3"}
_FOLDERS = {"root": 0o755, "tmp": 0o1777, "var": 0o755, "var/tmp": 0o1777, "run": 0o755, "workspace": 0o755}
_LIBRARY = (
    "import json, sysconfig; print(json.dumps([sysconfig.get_path(n) for n in ('stdlib', 'platstdlib')]))"
)
_OF_ETC = tuple(f"/etc/{name}" for name in (*roots.COPIED, *roots.CERTIFICATES) if name != "alternatives")
"""Links of the alternatives come with the programs that they lead to."""
_FOUND_BY = ("/usr/lib/ssl/cert.pem", "/usr/lib/ssl/certs", "/etc/ssl/cert.pem", "/etc/pki/tls/cert.pem")
"""Where libraries look for certificates."""
_LOCALES = ("/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8")
_DEADLINE = 60.0
_ELF = b"\x7fELF"


@dataclass(frozen=True, slots=True)
class Host:
    """Programs to take along: with ``python3`` its standard library, with ``git`` its commands."""

    programs: tuple[str, ...] = WANTED

    def fill(self, root: Path, scratch: Path) -> str:
        """Copy them. Raises :class:`ImageError` for one that this machine does not have."""
        if sys.platform != "linux":
            raise ImageError("images: programs of this machine run in no sandbox, which is Linux; use --from")
        copy = _Copy(str(root))
        for name in self.programs:
            copy.add(python() if name == "python3" else _which(name))
        if "python3" in self.programs:
            _add_library(copy, python())
        if "git" in self.programs:
            _add_git(copy)
        for found in filter(None, (shutil.which(name, path=PATH) for name in BASICS)):
            copy.add(found)
        copy.add("/bin/sh")  # which scripts and commands name by its place
        copy.add_libraries()
        for place in (*_LOCALES, *_OF_ETC, *_FOUND_BY):
            if os.path.exists(place):
                copy.add_all(place)
        for place in (f"/{name}" for name in roots.LINKS):
            if os.path.islink(place):
                copy.add(place)
        for name, mode in _FOLDERS.items():
            (root / name).mkdir(exist_ok=True)
            (root / name).chmod(mode)
        return f"this machine's {', '.join(self.programs)}"


def python() -> str:
    """The system's ``python3``, or what runs this, outside any virtual environment."""
    own = str(getattr(sys, "_base_executable", sys.executable))
    return shutil.which("python3", path=PATH) or own


def _which(name: str) -> str:
    found = shutil.which(name, path=PATH)
    if found is None:
        raise ImageError(f"images: this machine has no {name} in {PATH}; install it, or build with --apt")
    return found


def _add_library(copy: _Copy, interpreter: str) -> None:
    """The standard library, without its tests and windows."""
    places: list[str] = json.loads(_output(interpreter, "-I", "-S", "-c", _LIBRARY))
    for place in sorted(set(places)):
        copy.add_all(place, LEFT_OUT)
    if os.path.dirname(interpreter) not in PATH.split(":"):
        copy.link("/usr/local/bin/python3", interpreter)


def _add_git(copy: _Copy) -> None:
    """The programs that git starts, and what it makes repositories of."""
    copy.add_all(_output(_which("git"), "--exec-path").strip())
    if os.path.isdir("/usr/share/git-core/templates"):
        copy.add_all("/usr/share/git-core/templates")


def _output(*command: str) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_DEADLINE)
    except (OSError, subprocess.SubprocessError) as error:
        raise ImageError(f"images: {command[0]} cannot be asked what it needs: {error}") from error
    return result.stdout


class _Copy:
    """Files of this machine on their way to ``root``."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._programs: list[str] = []
        self._linked: dict[tuple[int, int], str] = {}

    def add(self, path: str) -> None:
        """A file, with all links and folders that lead to it. Raises ``OSError`` where it is not there."""
        os.stat(path)  # which also refuses links that go round
        parts, here = deque(path.split("/")), ""
        while parts:
            part = parts.popleft()
            if part == "..":
                here = os.path.dirname(here)
            elif part not in ("", "."):
                place = f"{here}/{part}"
                if os.path.islink(place):
                    target = os.readlink(place)
                    self.link(place, target)
                    here = "" if target.startswith("/") else here
                    parts.extendleft(reversed(target.split("/")))
                else:
                    self._copy(place)
                    here = place

    def add_all(self, path: str, left_out: Iterable[str] = ()) -> None:
        """A file, or a folder with all that is in it and may be read by everybody."""
        self.add(path)
        for folder, folders, files in os.walk(path):
            folders[:] = [n for n in folders if n not in left_out and not n.startswith("config-")]
            for name in (*folders, *files):
                place = os.path.join(folder, name)
                if os.path.exists(place) and os.stat(place).st_mode & stat.S_IROTH:
                    self.add(place)

    def add_libraries(self) -> None:
        """What the programs copied so far are linked with."""
        try:
            loaders, needed = linked(self._programs)
        except OSError as error:
            raise ImageError("images: there is no ldd to say what programs load; build with --apt") from error
        for place in map(str, sorted(loaders | needed)):
            self.add(place)
            beside = os.path.join(os.path.dirname(place), "libgcc_s.so.1")  # loaded when a thread ends
            if os.path.basename(place).startswith("libc.so") and os.path.exists(beside):
                self.add(beside)

    def link(self, place: str, target: str) -> None:
        """A symbolic link."""
        os.makedirs(self._root + os.path.dirname(place), exist_ok=True)
        if not os.path.lexists(self._root + place):
            os.symlink(target, self._root + place)

    def _copy(self, place: str) -> None:
        """One folder, without what is in it, or one file."""
        target, status = self._root + place, os.stat(place)
        if os.path.lexists(target):
            return
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(target, 0o755)
            return
        key = (status.st_dev, status.st_ino)
        if key in self._linked:
            os.link(self._linked[key], target)
            return
        shutil.copyfile(place, target)
        os.chmod(target, status.st_mode & 0o755)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))  # by which compiled modules are valid
        self._linked[key] = target
        with open(target, "rb") as file:
            if file.read(len(_ELF)) == _ELF:
                self._programs.append(place)
