"""One sandbox, from the owner's side: every call of the contract, as a request to its resident.

``recycle``, ``restore`` and ``snapshot`` replace the resident behind the object: the hub gets one
end of a new socket pair for the new one, the old connection is dropped.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnwise.sandbox.contract import (
    ExecResult,
    FileInfo,
    Match,
    MiB,
    Sandbox,
    SandboxDied,
    SandboxSpec,
    Snapshot,
)
from turnwise.sandbox.egress import Egress
from turnwise.sandbox.namespaces.link import Link, Reply
from turnwise.sandbox.namespaces.relay import Relay

if TYPE_CHECKING:
    from turnwise.sandbox.namespaces.backend import NamespacesBackend

ShellState = tuple[str, dict[str, str]]
"""Working directory and exported variables."""

FILE_DEADLINE = 30.0
GRACE = 15.0
"""How long past its timeout a command's answer may take."""
PROXY_PORT = 3128
"""Of the sandbox's own loopback."""


class NamespacesSandbox(Sandbox):
    def __init__(
        self, backend: NamespacesBackend, name: str, spec: SandboxSpec, shell_state: ShellState | None
    ) -> None:
        self.id, self.spec = name, spec
        self._backend = backend
        self._link: Link | None = None
        self._closed = False
        self._shell_state = shell_state
        self._relays: dict[str, Relay] = {}
        self._egress = Egress(spec.network, name=name)
        self._serving = contextlib.AsyncExitStack()
        """The proxy, while a resident has a listener for it."""

    # ------------------------------------------------------------ requests
    @property
    def _resident(self) -> Link:
        if self._link is None or self._closed:
            raise SandboxDied(f"sandbox {self.id} is closed")
        return self._link

    async def _ask(
        self, op: str, body: bytes = b"", *, timeout: float = FILE_DEADLINE, **arguments: Any
    ) -> Reply:
        return await self._resident.call(op, body, timeout=timeout, **arguments)

    async def replace(self, op: str, **arguments: Any) -> Reply:
        """Have the hub start another resident, and connect to it."""
        if self._closed:
            raise SandboxDied(f"sandbox {self.id} is closed")
        if self._link is not None:
            self._link.close(f"sandbox {self.id} started another episode ({op})")
        await self._serving.aclose()  # its listener would keep the old network namespace
        mine, theirs = socket.socketpair()
        self._link = Link(mine, f"sandbox {self.id}")
        ready = self._link.expect(0, FILE_DEADLINE, op)
        try:
            with theirs:
                reply = await self._backend.request(op, fds=[theirs.fileno()], box=self.id, **arguments)
            await ready
            if self.spec.network:
                await self._open_network()
        except BaseException as error:
            self._link.close(
                f"sandbox {self.id} could not be started again ({op}): {error or type(error).__name__}"
            )
            raise
        return reply

    # ------------------------------------------------------------ commands
    async def exec(
        self,
        command: str | Sequence[str],
        *,
        cwd: str = "/workspace",
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout: float = 60.0,
    ) -> ExecResult:
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else [*command]
        if not argv:
            raise ValueError("command: an empty list names no program")
        _refuse_nul("command", argv)
        variables = dict(env or {})
        _refuse_nul("env", [*variables, *variables.values()])
        reply = await self._ask(
            "exec", stdin, timeout=timeout + GRACE, argv=argv, cwd=cwd, env=variables, seconds=timeout
        )
        return _result(reply)

    async def shell(self, command: str, *, timeout: float = 60.0) -> ExecResult:
        _refuse_nul("command", [command])
        reply = await self._ask(
            "shell", timeout=timeout + GRACE, command=command, state=self._shell_state, seconds=timeout
        )
        return _result(reply)

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

    # ------------------------------------------------------------ sockets
    async def expose(self, endpoint: Path, path: str) -> None:
        reply = await self._ask("expose", path=path)
        listener = socket.socket(fileno=reply.fds[0])
        previous = self._relays.pop(path, None)
        if previous is not None:
            await previous.close()
        self._relays[path] = Relay(listener, endpoint)

    async def _expose_again(self) -> None:
        """After the resident that bound them was replaced, the files being the same."""
        for path, relay in list(self._relays.items()):
            await self.expose(relay.endpoint, path)

    async def _unexpose(self) -> None:
        relays, self._relays = list(self._relays.values()), {}
        for relay in relays:
            await relay.close()

    async def _open_network(self) -> None:
        """Serve the proxy on the loopback of a new resident, before anything of the agent runs there."""
        variables = self._egress.variables(PROXY_PORT)
        reply = await self._ask("open_network", port=PROXY_PORT, variables=variables)
        await self._serving.enter_async_context(self._egress.serve(socket.socket(fileno=reply.fds[0])))

    # ------------------------------------------------------------ episodes
    async def snapshot(self) -> Snapshot:
        quiet = await self._ask("quiesce")
        state = quiet.head["state"]
        self._shell_state = None if state is None else (state[0], state[1])
        name = self._backend.new_name("snapshot")
        try:
            reply = await self.replace("snapshot", snapshot=name)
        except BaseException:
            self._backend.abandon(name)
            raise
        self._backend.remember(name, self._shell_state)
        await self._expose_again()
        return Snapshot(name, self._backend.name, self.spec, reply.head["size"], quiet.head["processes"])

    async def restore(self, snapshot: Snapshot) -> None:
        state = self._backend.recall(snapshot)
        await self.replace("replace", snapshot=snapshot.name)
        self._shell_state = state
        await self._expose_again()

    async def recycle(self) -> None:
        await self._unexpose()
        await self.replace("replace", snapshot=None)
        self._shell_state = None

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._link is not None:
            self._link.close(f"sandbox {self.id} is closed")
        await self._serving.aclose()
        await self._unexpose()
        await self._backend.destroy(self)


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
