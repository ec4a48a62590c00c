"""What every image is given: the resident, and an interpreter of its own to run it.

The resident runs on the interpreter that the owner runs on, with the few modules it imports, taken from the
host. So an image needs no Python, and no libc either, and what an image calls ``python3`` is never trusted.
Where the host's interpreter cannot run in the image (an owner on macOS, another processor), the image's
``python3`` does.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import py_compile
import stat
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.util import cache_from_source
from pathlib import Path, PurePosixPath
from typing import IO

import turnwise.sandbox
from turnwise.sandbox.docker import closure

PLACE = PurePosixPath("/.sandbox")
"""Open to the resident only."""
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_START = b"""import sys
sys.path.append("/.sandbox/code")
from turnwise.sandbox.docker.inside.main import main
main()
"""
_CODE = ("seccomp.py", "namespaces/*.py", "process/keeper/*.py", "docker/inside/*.py")
_IMPORTED = (
    "turnwise.sandbox.docker.inside.main",
    "encodings.idna",
    "encodings.utf_8",
    "encodings.ascii",
    "stringprep",
)
"""The resident, and what the library imports only when it is needed."""
_OWN_INTERPRETER = ("ld.so", "--library-path", f"{PLACE}/lib", f"{PLACE}/bin/{_PYTHON}")


def command(own: bool) -> list[str]:
    """What runs the resident, on an interpreter of its own or on the image's."""
    start = [f"{PLACE}/{_OWN_INTERPRETER[0]}", *_OWN_INTERPRETER[1:]] if own else ["python3"]
    return [*start, "-I", "-S", f"{PLACE}/start.py"]


@functools.cache
def digest(own: bool) -> str:
    """Names what is in the kit: it changes with the code and with the interpreter."""
    seen = hashlib.sha256(repr((command(own), _IMPORTED, _START)).encode())
    if own:
        status = closure.interpreter().stat()
        seen.update(repr((sys.version, closure.interpreter(), status.st_size, status.st_mtime_ns)).encode())
    for name, file in _code():
        seen.update(name.encode() + file.read_bytes())
    return seen.hexdigest()


def _code() -> Iterator[tuple[str, Path]]:
    """The resident's modules, each with its name below the package. Its ``__init__`` are left out."""
    top = Path(next(iter(turnwise.sandbox.__path__)))
    for pattern in _CODE:
        for file in sorted(top.glob(pattern)):
            if file.name != "__init__.py":
                yield str(file.relative_to(top)), file


def write(target: IO[bytes], own: bool) -> None:
    """Write the kit as a tar file to be extracted at the root of an image."""
    with tarfile.open(fileobj=target, mode="w") as tar, tempfile.TemporaryDirectory() as scratch:
        _add(tar, "", b"", stat.S_IFDIR | 0o700)
        _add(tar, "start.py", _START)
        for name, file in _code():
            _add_module(tar, f"code/turnwise/sandbox/{name}", file, scratch if own else None)
        if own:
            _add_interpreter(tar, scratch)


def _add_interpreter(tar: tarfile.TarFile, scratch: str) -> None:
    program, library = closure.interpreter(), Path(sysconfig.get_path("stdlib"))
    files = closure.modules(_IMPORTED)
    loader, needed = closure.libraries([program, *(file for file in files if file.suffix == ".so")])
    _add(tar, "ld.so", loader.read_bytes(), 0o755)
    _add(tar, f"bin/{_PYTHON}", program.read_bytes(), 0o755)
    _add(tar, f"lib/{_PYTHON}/lib-dynload", b"", stat.S_IFDIR | 0o755)  # which it knows its place by
    for file in needed:
        _add(tar, f"lib/{file.name}", file.read_bytes(), 0o755)
    for file in files:
        target = f"lib/{_PYTHON}/{os.path.relpath(file, library)}"
        if file.suffix == ".py":
            _add_module(tar, target, file, scratch)
        else:
            _add(tar, target, file.read_bytes(), 0o755)


def _add_module(tar: tarfile.TarFile, name: str, file: Path, scratch: str | None) -> None:
    """A module, compiled too where the interpreter that will run it is this one."""
    _add(tar, name, file.read_bytes())
    if scratch is not None:
        target = os.path.join(scratch, "compiled.pyc")
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(file), target, f"{PLACE}/{name}", doraise=True, invalidation_mode=mode)
        _add(tar, cache_from_source(name), Path(target).read_bytes())


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(str(PLACE / name).lstrip("/"))
    entry.mode, entry.size = stat.S_IMODE(mode), len(content)
    entry.type = tarfile.DIRTYPE if stat.S_ISDIR(mode) else tarfile.REGTYPE
    tar.addfile(entry, io.BytesIO(content))
