"""Source distributions: fetched or given as a file, and read as archives, of which nothing is run.

pip fetches them, so that indexes, proxies and credentials are those that the user has set up for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from turnwise.envs.errors import UsageError
from turnwise.envs.swe.factory.problems import PackageFault, PackageProblem
from turnwise.envs.swe.repository import MOST_BYTES, MOST_FILES
from turnwise.envs.swe.task import Tree
from turnwise.sandbox.contract import MiB

FETCH_SECONDS = 600.0
SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
_Member: TypeAlias = tuple[str, int, Callable[[], bytes]]
"""Name, bytes, and how to read it."""
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+!_-]+")


@dataclass(frozen=True, slots=True)
class Sdist:
    """A source distribution."""

    name: str
    """Of the project, in lower case with hyphens."""
    version: str
    file: str
    sha256: str
    files: Tree
    """What is below its top folder."""
    needs: tuple[str, ...]
    """What it declares to require, with the markers that say when."""


def check_source(source: str) -> None:
    """Raises ``UsageError`` for what is neither ``NAME==VERSION`` nor an archive that is there."""
    if source.endswith(SUFFIXES):
        if not Path(source).is_file():
            raise UsageError(f"--from {source!r}: there is no such file")
    elif not _PINNED.fullmatch(source):
        raise UsageError(f"--from {source!r}: say PACKAGE==VERSION, or the path of a source distribution")


async def obtain(source: str) -> Sdist:
    """The source distribution of a name and version, or of a path. Raises :class:`PackageProblem`."""
    if source.endswith(SUFFIXES):
        return await asyncio.to_thread(read_sdist, Path(source))
    with tempfile.TemporaryDirectory(prefix="turnwise-sdist-") as folder:
        return await asyncio.to_thread(read_sdist, await _fetch(source, Path(folder)))


async def _fetch(source: str, folder: Path) -> Path:
    pip = [sys.executable, "-B", str(Path(__file__).with_name("pip_alone.py")), "download"]
    alone = ["--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--use-pep517", "--quiet"]
    process = await asyncio.create_subprocess_exec(
        *pip, *alone, "--disable-pip-version-check", "--no-input", "--dest", str(folder), source,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            _, said = await process.communicate()
    except TimeoutError:
        raise PackageProblem(PackageFault.DOWNLOAD, source, f"pip took over {FETCH_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found = [name for name in await asyncio.to_thread(os.listdir, folder) if name.endswith(SUFFIXES)]
    if process.returncode or not found:
        lines = said.decode(errors="replace").strip().splitlines()
        why = next((line for line in reversed(lines) if "ERROR" in line or "No module" in line), "no archive")
        raise PackageProblem(PackageFault.DOWNLOAD, source, f"pip cannot fetch its source: {why.strip()}")
    return folder / found[0]


def read_sdist(path: Path) -> Sdist:
    """An archive, in memory. Raises :class:`PackageProblem`."""
    try:
        data = path.read_bytes()
        files = _below_top(path.name, dict(_members(path)))
        fields = BytesHeaderParser().parsebytes(files["PKG-INFO"])
        name, version = str(fields["Name"]), str(fields["Version"])
    except KeyError:
        raise PackageProblem(
            PackageFault.ARCHIVE, path.name, "it has no PKG-INFO: no source distribution"
        ) from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise PackageProblem(PackageFault.ARCHIVE, path.name, f"it cannot be read: {error}") from None
    return Sdist(
        name=re.sub(r"[-_.]+", "-", name).lower(),
        version=version,
        file=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        files=files,
        needs=tuple(map(str, fields.get_all("Requires-Dist", []))),
    )


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """The plain files of an archive; links, devices and paths that lead out are left where they are."""
    count = size = 0
    for name, length, read in _zipped(path) if path.suffix == ".zip" else _tarred(path):
        count, size = count + 1, size + length
        if count > MOST_FILES or size > MOST_BYTES:
            most = f"{MOST_FILES:,} files or {MOST_BYTES // MiB} MiB"
            raise PackageProblem(PackageFault.ARCHIVE, path.name, f"it holds more than {most}")
        parts = PurePosixPath(name).parts
        if parts and not name.startswith("/") and ".." not in parts and "\\" not in name:
            yield name, read()


def _tarred(path: Path) -> Iterator[_Member]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isreg():
                opened = archive.extractfile(member)
                assert opened is not None
                yield member.name, member.size, opened.read


def _zipped(path: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, info.file_size, partial(archive.read, info)


def _below_top(name: str, files: Tree) -> Tree:
    tops = {PurePosixPath(path).parts[0] for path in files}
    if len(tops) != 1:
        raise PackageProblem(PackageFault.ARCHIVE, name, "it has not one folder that holds all")
    found = {str(PurePosixPath(*PurePosixPath(path).parts[1:])): data for path, data in files.items()}
    return {path: data for path, data in found.items() if path != "."}
