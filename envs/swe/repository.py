"""The repository of a task at its base commit: read, checked, and written into a sandbox.

The agent gets files, and a history of one commit. What could lead to the repair is looked for before: a copy
of the repaired lines elsewhere in the tree, a hidden test, the host's files with this package among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from turnwise.envs.swe import problems
from turnwise.envs.swe.history import one_commit
from turnwise.envs.swe.patch import NOTHING, read_patch
from turnwise.envs.swe.problems import ProblemKind, TaskProblem
from turnwise.envs.swe.task import Changes, FilesRepository, FolderRepository, SweTask
from turnwise.sandbox.contract import LimitExceeded, MiB, Sandbox

MOST_FILES = 20_000
MOST_BYTES = 128 * MiB
CHUNK = 8 * MiB
LEFT_OUT = (".git", "__pycache__", ".pytest_cache", ".venv")
"""Folders that are no part of a repository's files."""
TELLING = 40
"""Characters that lines of the repair must have to be looked for elsewhere: shorter ones are anywhere."""


def check_folder(task: str, path: Path) -> None:
    """Whether a folder can be the repository of a task. Raises :class:`TaskProblem`."""
    if not path.is_dir():
        raise TaskProblem(ProblemKind.REPOSITORY, task, f"its repository {str(path)!r} is no folder")
    if (path / ".gitmodules").exists():
        raise TaskProblem(
            ProblemKind.SUBMODULES, task, "its repository has submodules; put their files in their place"
        )
    count = size = 0
    for file in _walk(path):
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise TaskProblem(
                ProblemKind.REPOSITORY,
                task,
                f"{file.relative_to(path)} is no plain file; put a copy in the place of a link",
            )
        count, size = count + 1, size + status.st_size
        if count > MOST_FILES or size > MOST_BYTES:
            raise TaskProblem(
                ProblemKind.TOO_LARGE,
                task,
                f"its repository has more than {MOST_FILES:,} files or {MOST_BYTES // MiB} MiB; use an image",
            )


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        yield from (Path(place) / name for name in sorted([*files, *links]))


@lru_cache(maxsize=64)
def _folder_files(path: str) -> tuple[dict[str, bytes], frozenset[str]]:
    top = Path(path)
    files = {file.relative_to(top).as_posix(): file for file in _walk(top)}
    programs = frozenset(name for name, file in files.items() if file.stat().st_mode & 0o100)
    return {name: file.read_bytes() for name, file in files.items()}, programs


async def owned_files(task: SweTask) -> tuple[dict[str, bytes], frozenset[str]]:
    """The files of a repository that is not in an image, and which of them are programs."""
    match task.repository:
        case FilesRepository(files=texts):
            files, programs = {path: text.encode() for path, text in texts.items()}, frozenset[str]()
        case FolderRepository(path=path):
            files, programs = await asyncio.to_thread(_folder_files, path)
        case _:
            return {}, frozenset()
    return overlaid(task, files), programs


def overlaid(task: SweTask, files: dict[str, bytes]) -> dict[str, bytes]:
    """Files with the overlay of the task's."""
    removed = {path for path, text in task.overlay.items() if text is None}
    added = {path: text.encode() for path, text in task.overlay.items() if text is not None}
    return {path: data for path, data in files.items() if path not in removed} | added


async def read_files(sandbox: Sandbox, at: str) -> dict[str, bytes]:
    """The repository that is in a sandbox, whose processes end."""
    files = await sandbox.read_tree(at, limit=512 * MiB)
    return {path: data for path, data in files.items() if not set(path.split("/")[:-1]) & set(LEFT_OUT)}


async def write_repository(sandbox: Sandbox, task: SweTask) -> None:
    """Put the files and their history in place. Raises :class:`TaskProblem`."""
    await refuse_host(sandbox, task)
    files, programs = await owned_files(task)
    if task.repository.kind == "image":
        try:
            given = await read_files(sandbox, task.at)
            await _check_writable(sandbox, task)
            files = overlaid(task, given)
            await lay(sandbox, task.at, {path: files.get(path) for path in task.overlay})
            await sandbox.delete(f"{task.at}/.git")
        except FileNotFoundError:
            if not files:
                raise TaskProblem(
                    ProblemKind.IMAGE, task.id, f"its image {task.repository.image} has no {task.at}"
                ) from None
    elif not files:
        raise TaskProblem(ProblemKind.REPOSITORY, task.id, "its repository is empty")
    else:
        await write_all(sandbox, {f"{task.at}/{path}": data for path, data in files.items()}, task)
        for path in programs:
            await sandbox.write(f"{task.at}/{path}", files[path], mode=0o755)
    for path in exposing(task, files):
        raise TaskProblem(
            ProblemKind.EXPOSED, task.id, f"{path} of its repository holds the repair; remove it"
        )
    if task.history:
        commit = await asyncio.to_thread(one_commit, files, programs)
        await write_all(sandbox, {f"{task.at}/{path}": data for path, data in commit.items()}, task)


async def _check_writable(sandbox: Sandbox, task: SweTask) -> None:
    mark = f"{task.at}/.turnwise"
    try:
        await sandbox.write(mark, b"")
        await sandbox.delete(mark)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        raise TaskProblem(
            ProblemKind.IMAGE,
            task.id,
            f"{task.at} of its image cannot be written to here; use the backend namespaces",
        ) from None


async def write_all(sandbox: Sandbox, files: Mapping[str, bytes], task: SweTask) -> None:
    """Write many files, some megabytes at a time. Raises :class:`TaskProblem` when the disk is full."""
    part: dict[str, bytes] = {}
    size = 0
    try:
        for path, data in files.items():
            part[path] = data
            size += len(data)
            if size > CHUNK:
                await sandbox.write_tree(part)
                part, size = {}, 0
        await sandbox.write_tree(part)
    except LimitExceeded as error:
        raise TaskProblem(
            ProblemKind.TOO_LARGE, task.id, f"its files do not fit into limits.disk_mb: {error}"
        ) from error


async def refuse_host(sandbox: Sandbox, task: SweTask) -> None:
    """Raises :class:`TaskProblem` where the agent can see this package's files, or the task's."""
    own = str(Path(problems.__file__))
    for path in [own, task.repository.path] if task.repository.kind == "folder" else [own]:
        try:
            await sandbox.stat(path)
        except FileNotFoundError:
            continue
        except PermissionError:  # the backend gives it no file system of its own
            pass
        raise TaskProblem(
            ProblemKind.EXPOSED,
            task.id,
            f"the sandbox shows the host's {path}: use a backend that isolates, and install Turnwise and "
            "keep tasks outside /usr",
        )


def exposing(task: SweTask, files: Mapping[str, bytes]) -> list[str]:
    """The files in which lines of the repair, or a hidden test, can be read."""
    patched = {path for file in read_patch(task.patch) for path in (file.old, file.new)} - {NOTHING}
    blocks = []
    for file in read_patch(task.patch):
        for hunk in file.hunks:
            before = set(hunk.old)
            added = b"".join(line for line in hunk.new if line not in before)
            if len(added.strip()) >= TELLING and added in b"".join(hunk.new):
                blocks.append(added)
    tests = [text.encode() for text in task.hidden.values() if text]
    return [
        path
        for path, data in files.items()
        if path not in patched and (any(block in data for block in blocks) or data in tests)
    ]


async def lay(sandbox: Sandbox, at: str, changes: Changes) -> None:
    """Bring files in a sandbox to what they were changed to."""
    written = {posixpath.join(at, path): data for path, data in changes.items() if data is not None}
    for path, data in changes.items():
        if data is None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                await sandbox.delete(posixpath.join(at, path))
    if written:
        await sandbox.write_tree(written)
