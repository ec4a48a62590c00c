"""The root that sandboxes have unless told: this machine's shell, tools, git and Python, as a tar file.

Each program is taken with the libraries it loads, at the same paths, so that no registry and no download
is needed.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import sysconfig
import tarfile
from pathlib import Path
from typing import IO

from turnwise.sandbox.docker import closure

PROGRAMS = (
    *("sh", "bash", "env", "ls", "cat", "cp", "mv", "rm", "ln", "mkdir", "mkfifo", "rmdir", "touch", "chmod"),
    *(
        "stat",
        "readlink",
        "realpath",
        "basename",
        "dirname",
        "pwd",
        "echo",
        "printf",
        "test",
        "true",
        "false",
    ),
    *("sleep", "timeout", "head", "tail", "wc", "sort", "uniq", "cut", "tr", "tee", "split", "paste", "comm"),
    *(
        "seq",
        "yes",
        "date",
        "id",
        "uname",
        "nproc",
        "du",
        "df",
        "od",
        "sha256sum",
        "md5sum",
        "expr",
        "mktemp",
    ),
    *(
        "kill",
        "ps",
        "grep",
        "sed",
        "awk",
        "find",
        "xargs",
        "diff",
        "cmp",
        "patch",
        "tar",
        "gzip",
        "make",
        "git",
    ),
)
"""Those of them that this machine has."""
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_FOLDERS = ("dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "var/tmp", "workspace", "usr/bin")
_MERGED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Links into ``/usr``, on most machines."""
_WRITTEN = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nagent:x:1000:1000::/tmp:/bin/sh\n",
    "etc/group": "root:x:0:\nagent:x:1000:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_COPIED = ("/etc/ld.so.cache", "/usr/lib/git-core", "/usr/share/git-core/templates", "/usr/lib/locale/C.utf8")
_LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "turtledemo",
    "ensurepip",
    "site-packages",
    "dist-packages",
    "lib2to3",
}


def programs() -> list[Path]:
    found = [shutil.which(name, path=_PATH) for name in PROGRAMS]
    return [Path(path) for path in found if path is not None]


def digest() -> str:
    """Names the root: it changes with the programs of this machine."""
    seen = hashlib.sha256(Path(__file__).read_bytes())
    for path in [*programs(), closure.interpreter()]:
        status = path.stat()
        seen.update(repr((path, status.st_size, status.st_mtime_ns)).encode())
    return seen.hexdigest()


def write(target: IO[bytes]) -> None:
    """Write the root as a tar file. Raises ``OSError`` where the libraries of programs cannot be told."""
    with tarfile.open(fileobj=target, mode="w") as tar:
        root = _Root(tar)
        for name in _FOLDERS:
            root.folder(name, 0o1777 if name.endswith("tmp") else 0o755)
        for name, text in _WRITTEN.items():
            root.text(name, text)
        for name in _MERGED:
            if os.path.islink(name):
                root.link(name[1:], os.readlink(name))
            elif os.path.isdir(name):
                root.folder(name[1:])
        root.add_python()
        for path in programs():
            root.add(path)
        for name in _COPIED:
            root.add_all(Path(name))
        root.add_libraries()


class _Root:
    """A tar file of a root, with everything in it once."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._names: set[str] = set()
        self._files: dict[tuple[int, int], str] = {}
        self._loading: list[Path] = []

    def folder(self, name: str, mode: int = 0o755) -> None:
        parents = [str(parent) for parent in reversed(Path(name).parents)][1:]
        for parent in [*parents, name]:
            if parent not in self._names:
                entry = tarfile.TarInfo(parent)
                entry.type, entry.mode = tarfile.DIRTYPE, mode if parent == name else 0o755
                self._put(entry)

    def text(self, name: str, text: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(text.encode())
        self._put(entry, io.BytesIO(text.encode()))

    def link(self, name: str, target: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._put(entry)

    def _put(self, entry: tarfile.TarInfo, content: IO[bytes] | None = None) -> None:
        if entry.name not in self._names:
            self._names.add(entry.name)
            self._tar.addfile(entry, content)

    def add(self, path: Path) -> None:
        """A file at the path it has here, and where that is a link what it leads to, at its own."""
        path = path.parent.resolve() / path.name
        name = str(path).lstrip("/")
        if name in self._names:
            return
        self.folder(str(path.parent).lstrip("/"))
        if path.is_symlink():
            self.link(name, os.readlink(path))
            self.add(Path(os.path.normpath(path.parent / os.readlink(path))))
            return
        status = path.stat()
        entry = tarfile.TarInfo(name)
        entry.mode, entry.mtime = stat.S_IMODE(status.st_mode) & 0o755, int(status.st_mtime)
        twin = self._files.setdefault((status.st_dev, status.st_ino), name)
        if twin != name:
            entry.type, entry.linkname = tarfile.LNKTYPE, twin
            self._put(entry)
            return
        entry.size = status.st_size
        with path.open("rb") as file:
            if file.read(4) == b"\x7fELF":
                self._loading.append(path)
            file.seek(0)
            self._put(entry, file)

    def add_all(self, path: Path) -> None:
        """A file or directory that may not be there."""
        if path.is_dir() and not path.is_symlink():
            for top, folders, files in os.walk(path):
                folders[:] = [name for name in folders if name not in _LEFT_OUT]
                for name in files:
                    if not name.endswith((".opt-1.pyc", ".opt-2.pyc", ".a")):
                        self.add(Path(top, name))
        elif path.exists():
            self.add(path)

    def add_python(self) -> None:
        self.add(closure.interpreter())
        self.add_all(Path(sysconfig.get_path("stdlib")))
        for name in ("usr/bin/python3", "usr/bin/python"):
            self.link(name, str(closure.interpreter()))

    def add_libraries(self) -> None:
        loader, needed = closure.libraries(self._loading)
        for path in [loader, *needed]:
            self.add(path)
