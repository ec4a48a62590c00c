"""The calls of the contract that are one request to a resident, from the owner's side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from turnwise.sandbox.contract import ExecResult, FileInfo, Match, MiB, Sandbox, SandboxDied
from turnwise.sandbox.namespaces.link import Link, Reply

ShellState = tuple[str, dict[str, str]]
"""Working directory and exported variables."""

FILE_DEADLINE = 60.0
GRACE = 30.0
"""How long past its timeout a command's answer may take."""
SHELL_DEADLINE = 30.0
"""Seconds an idle shell has to tell its state."""
PROXY_PORT = 3128
"""Of the sandbox's own loopback."""


class ResidentSandbox(Sandbox):
    """A sandbox whose files, commands and shell are served by a resident at the other end of a link."""

    _link: Link | None = None
    _closed = False
    _shell_state: ShellState | None = None
    """Where a new shell starts."""

    @property
    def _resident(self) -> Link:
        if self._link is None or self._closed:
            raise SandboxDied(f"sandbox {self.id} is closed")
        return self._link

    async def _ask(
        self, op: str, body: bytes = b"", *, timeout: float = FILE_DEADLINE, **arguments: Any
    ) -> Reply:
        return await self._resident.call(op, body, timeout=timeout, **arguments)

    # ------------------------------------------------------------ commands
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
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else [*command]
        if not argv:
            raise ValueError("command: an empty list names no program")
        _refuse_nul("command", argv)
        variables = dict(env or {})
        _refuse_nul("env", [*variables, *variables.values()])
        orders = {"argv": argv, "cwd": cwd, "env": variables, "seconds": timeout, "user": user}
        reply = await self._ask("exec", stdin, timeout=timeout + GRACE, **orders)
        return _result(reply)

    async def shell(self, command: str, *, timeout: float = 60.0) -> ExecResult:
        _refuse_nul("command", [command])
        reply = await self._ask(
            "shell", timeout=timeout + GRACE, command=command, state=self._shell_state, seconds=timeout
        )
        return _result(reply)

    async def _quiesce(self) -> int:
        """End the agent's processes, and have the next shell start where this one is; how many there were.

        Raises :class:`ShellSilent`.
        """
        reply = await self._ask("quiesce", timeout=SHELL_DEADLINE + GRACE, seconds=SHELL_DEADLINE)
        state = reply.head["state"]
        self._shell_state = None if state is None else (state[0], state[1])
        return int(reply.head["processes"])

    # ------------------------------------------------------------ files
    async def read(self, path: str, *, offset: int = 0, limit: int = 16 * MiB) -> bytes:
        return (await self._ask("read", path=path, offset=offset, limit=limit)).body

    async def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        await self._ask("write", data, path=path, mode=mode)

    async def write_tree(self, files: Mapping[str, bytes]) -> None:
        sizes = [(path, len(data)) for path, data in files.items()]
        await self._ask("write_tree", b"".join(files.values()), files=sizes)

    async def read_tree(self, path: str, *, limit: int = 64 * MiB) -> dict[str, bytes]:
        reply = await self._ask("read_tree", path=path, limit=limit)
        files, at = {}, 0
        for name, size in reply.head["files"]:
            files[name] = reply.body[at : at + size]
            at += size
        return files

    async def list(self, path: str) -> tuple[FileInfo, ...]:
        reply = await self._ask("list", path=path)
        return tuple(FileInfo(**info) for info in reply.head["entries"])

    async def stat(self, path: str) -> FileInfo:
        return FileInfo(**(await self._ask("stat", path=path)).head["info"])

    async def delete(self, path: str) -> None:
        await self._ask("delete", path=path)

    async def search(self, pattern: str, path: str = "/workspace", *, limit: int = 200) -> tuple[Match, ...]:
        reply = await self._ask("search", pattern=pattern, path=path, limit=limit)
        return tuple(Match(*match) for match in reply.head["matches"])


def _refuse_nul(name: str, texts: Iterable[str]) -> None:
    for text in texts:
        if "\0" in text:
            raise ValueError(f"{name}: {text!r} contains a NUL character, which ends a string there")


def _result(reply: Reply) -> ExecResult:
    head, (size, *_) = reply.head, reply.head["lengths"]
    return ExecResult(
        exit_code=head["code"],
        stdout=reply.body[:size],
        stderr=reply.body[size:],
        timed_out=head["timed_out"],
        truncated=head["truncated"],
        limit=head["limit"],
    )
