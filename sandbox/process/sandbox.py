"""A sandbox of the process backend: a directory, and the commands that run in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from turnwise.sandbox.contract import (
    ExecResult,
    FileInfo,
    Match,
    MiB,
    Resource,
    Sandbox,
    SandboxDied,
    SandboxError,
    SandboxSpec,
    Snapshot,
    UserUnsupported,
)
from turnwise.sandbox.ending import to_the_end
from turnwise.sandbox.process import shell, workspace
from turnwise.sandbox.process.link import Reply

if TYPE_CHECKING:
    from turnwise.sandbox.process.backend import ProcessBackend

P = ParamSpec("P")
T = TypeVar("T")

TREE_TIMEOUT = 120.0
"""Seconds to end, copy or remove the processes or the files of a sandbox."""

SEARCH_TIMEOUT = 30.0
KILLED = 128 + signal.SIGKILL
FILE_TOO_LARGE = 128 + signal.SIGXFSZ


class TookTooLong(SandboxError):
    """Work on a tree was ended at its timeout."""


class ProcessSandbox(Sandbox):
    """``directory`` holds the workspace, a ``tmp`` for ``TMPDIR`` and what the shell notes of its state."""

    def __init__(
        self,
        backend: ProcessBackend,
        name: str,
        spec: SandboxSpec,
        directory: Path,
        proxy: Mapping[str, str],
    ) -> None:
        self.id, self.spec, self.directory = name, spec, directory
        self._proxy = proxy
        self.root = directory / "workspace"
        self.backend = backend
        self.closed = False
        self.shell_busy = False
        self.shell_beginning = ""

    # -- commands
    async def exec(
        self,
        command: str | Sequence[str],
        *,
        cwd: str = "/workspace",
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout: float = 60.0,
        user: str | None = None,
    ) -> ExecResult:
        if user is not None:
            raise UserUnsupported(
                f"user: {user!r} is not possible in a process; the backend namespaces has others, as root"
            )
        argv = ["sh", "-c", command] if isinstance(command, str) else [*command]
        if not argv or any("\0" in word for word in argv):
            raise ValueError(f"command: {command!r} is empty or holds a NUL character")
        self._check()
        directory = workspace.directory(self.root, cwd)
        reply = await self._start("exec", argv, directory, {**self._env(), **(env or {})}, stdin, timeout)
        out = reply[0]["sizes"][0]
        return self._result(reply[0], reply[1][:out], reply[1][out:])

    async def shell(self, command: str, *, timeout: float = 60.0) -> ExecResult:
        if "\0" in command:
            raise ValueError(f"command: {command!r} holds a NUL character")
        if self.shell_busy:
            raise RuntimeError("a command is already running in this sandbox's shell")
        argv = shell.program(self.directory / "shell", self.shell_beginning)
        self.shell_busy = True
        try:
            reply = await self._start("shell", argv, self.root, self._env(), shell.line(command), timeout)
        finally:
            self.shell_busy = False
        return self._result(reply[0], reply[1], b"")

    def _env(self) -> dict[str, str]:
        own = {"HOME": str(self.root), "TMPDIR": str(self.directory / "tmp"), "TERM": "dumb"}
        inherited = {"PATH": os.defpath, "LANG": "C.UTF-8"}
        own |= {name: os.environ.get(name, default) for name, default in inherited.items()}
        return {**own, **self._proxy}

    async def _start(
        self, op: str, argv: Sequence[str], cwd: Path, env: Mapping[str, str], body: bytes, timeout: float
    ) -> Reply:
        limits = self.spec.limits
        bounds = {"RLIMIT_FSIZE": limits.file_size, "RLIMIT_DATA": limits.memory, "RLIMIT_CORE": 0}
        fields = {"argv": argv, "env": env, "cwd": str(cwd), "limits": bounds, "cap": limits.output}
        self._check()
        reply = await self._ask(op, body, timeout=timeout, **fields)
        self._check()
        return reply

    @staticmethod
    def _result(head: Mapping[str, Any], stdout: bytes, stderr: bytes) -> ExecResult:
        code = head["result"][0] if head["result"] else KILLED  # no result: its init was killed with it
        limit: Resource | None = "file_size" if code == FILE_TOO_LARGE else None
        return ExecResult(code, stdout, stderr, head["timed_out"], head["truncated"], limit)

    # -- files
    async def read(self, path: str, *, offset: int = 0, limit: int = 16 * MiB) -> bytes:
        return await self._file(workspace.read, path, offset, limit)

    async def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        await self._file(workspace.write, path, data, mode)

    async def write_tree(self, files: Mapping[str, bytes]) -> None:
        await self._file(workspace.write_tree, files)

    async def read_tree(self, path: str, *, limit: int = 64 * MiB) -> dict[str, bytes]:
        self._check()
        await self._end()
        return await self._file(workspace.read_tree, path, limit)

    async def list(self, path: str) -> tuple[FileInfo, ...]:
        return await self._file(workspace.entries, path)

    async def stat(self, path: str) -> FileInfo:
        return await self._file(workspace.status, path)

    async def delete(self, path: str) -> None:
        real = await self._file(workspace.present, path, follow=False)
        if real == self.root:
            raise PermissionError(f"{path}: the workspace itself stays; recycle() empties it")
        await self._work("remove", path, timeout=TREE_TIMEOUT, target=str(real))

    async def search(self, pattern: str, path: str = "/workspace", *, limit: int = 200) -> tuple[Match, ...]:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"pattern: {pattern!r} is no regular expression: {error}") from None
        real = await self._file(workspace.present, path, follow=True)
        fields = {"pattern": pattern, "target": str(real), "limit": limit}
        try:
            found = await self._work("search", path, timeout=SEARCH_TIMEOUT, **fields)
        except TookTooLong:
            raise ValueError(f"pattern: {pattern!r} takes longer than {SEARCH_TIMEOUT:g} s") from None
        start = len(str(self.root))
        return tuple(Match(f"/workspace{name[start:]}", line, text) for name, line, text in found)

    async def expose(self, endpoint: Path, path: str) -> None:
        await self._file(workspace.link, endpoint, path)

    # -- life
    async def snapshot(self) -> Snapshot:
        self._check()
        ended = await self._end()
        snapshot = await self.backend.freeze(self, ended)
        self._resume(self.directory)
        return snapshot

    async def restore(self, snapshot: Snapshot) -> None:
        self._check()
        self.backend.frozen(snapshot)
        await self._empty()
        await self.begin(snapshot)

    async def begin(self, snapshot: Snapshot) -> None:
        """Become what a snapshot holds, having no directory yet."""
        self._resume(await self.backend.thaw(snapshot, self.directory))

    async def recycle(self) -> None:
        self._check()
        await self._empty()
        await asyncio.to_thread(self.furnish)

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.backend.forget(self)
        with contextlib.suppress(SandboxDied):  # its directory goes with the backend
            await to_the_end(self._empty())

    def furnish(self) -> None:
        """Make the directories of a pristine sandbox."""
        self.root.mkdir(parents=True)
        (self.directory / "tmp").mkdir()

    async def _empty(self) -> None:
        """End every process and remove every file."""
        await self._end()
        self.shell_beginning = ""
        await self._work("remove", "/", timeout=TREE_TIMEOUT, target=str(self.directory))

    async def _end(self) -> int:
        head, _ = await self._ask("end", timeout=TREE_TIMEOUT)
        return int(head["ended"])

    def _resume(self, source: Path) -> None:
        """New shells begin with what one noted when this tree was at ``source``."""
        self.shell_beginning = shell.resume(self.directory / "shell", source, self.directory)

    # -- how a call is made
    def _check(self) -> None:
        if self.closed:
            raise SandboxDied(f"sandbox {self.id} is closed")

    async def _ask(self, op: str, body: bytes = b"", /, *, timeout: float, **fields: object) -> Reply:
        """Ask the keeper, on behalf of this sandbox."""
        return await self.backend.link.call(op, body, timeout=timeout, box=self.id, **fields)

    async def _work(self, op: str, path: str, *, timeout: float, **fields: object) -> Any:
        """Have the keeper work on a tree. Raises :class:`TookTooLong` after the timeout."""
        head, _ = await self._ask(op, timeout=timeout, **fields)
        result = head["result"]
        if result is None:
            self._check()
            if head["timed_out"]:
                raise TookTooLong(f"{op} of {path} took longer than {timeout:g} s")
            raise SandboxError(f"{op} of {path} was ended from outside")
        if "error" in result:
            raise OSError(result["errno"], result["error"], path)
        return result["value"]

    async def _file(self, work: Callable[Concatenate[Path, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work on the workspace's files, in a thread."""
        self._check()
        self.backend.check()
        try:
            return await asyncio.to_thread(work, self.root, *args, **kwargs)
        except OSError:
            self._check()  # closed meanwhile, its files gone
            raise
