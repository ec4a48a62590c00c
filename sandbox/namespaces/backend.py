"""The owner's side of the hub: starting it, and making sandboxes and snapshots through it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import itertools
import os
import subprocess
from pathlib import Path
from typing import Any, Literal

from turnwise.sandbox.contract import (
    Backend,
    BackendUnavailable,
    LimitExceeded,
    Probe,
    Sandbox,
    SandboxDied,
    SandboxError,
    SandboxSpec,
    Snapshot,
)
from turnwise.sandbox.namespaces import probing
from turnwise.sandbox.namespaces.box import NamespacesSandbox
from turnwise.sandbox.namespaces.calls import ShellState
from turnwise.sandbox.namespaces.channel import Head
from turnwise.sandbox.namespaces.launch import launch, wait
from turnwise.sandbox.namespaces.link import Link, Reply

Defence = Literal[
    "nested_pid",
    "dumpable",
    "resident_uid",
    "capabilities",
    "no_new_privs",
    "seccomp",
    "network",
    "title",
]
"""One protection of the resident or the host, as tests take it away."""

START_DEADLINE = 60.0
REQUEST_DEADLINE = 60.0


class NamespacesBackend(Backend):
    """``spares`` residents are kept ready. ``without`` is for tests of the defences only."""

    name = "namespaces"

    def __init__(self, *, spares: int = 2, without: frozenset[Defence] = frozenset()) -> None:
        self._config: Head = {"spares": spares, "without": sorted(without)}
        self._names = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self._boxes: dict[str, NamespacesSandbox] = {}
        self._snapshots: dict[str, ShellState | None] = {}

    @classmethod
    def probe(cls) -> Probe:
        return probing.probe(cls.name)

    # ------------------------------------------------------------ life
    async def start(self) -> None:
        try:
            self._process, sock = launch(self._config)
        except OSError as error:
            raise BackendUnavailable(f"namespaces: the interpreter cannot be started: {error}") from error
        self._link = Link(sock, "the hub of the namespaces backend")
        try:
            await self._link.expect(0, START_DEADLINE, "start")
        except SandboxDied as error:
            await self.close()
            raise BackendUnavailable(f"namespaces: {error}. {probing.remedy(str(error))}") from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        if self._link is not None:
            self._link.close("the namespaces backend was closed")
        for box in list(self._boxes.values()):
            await box.close()
        if self._process is not None:
            process, self._process = self._process, None
            await asyncio.to_thread(wait, process)

    async def request(self, op: str, **arguments: Any) -> Reply:
        """Ask the hub. Whatever goes wrong there is its failure: a :class:`SandboxError`."""
        if self._link is None:
            raise SandboxDied("the namespaces backend is not running: start() it first")
        try:
            return await self._link.call(op, timeout=REQUEST_DEADLINE, **arguments)
        except (OSError, LimitExceeded, RuntimeError, ValueError) as error:
            raise SandboxError(f"{op} failed in the hub: {error}") from error

    # ------------------------------------------------------------ sandboxes
    async def create(self, spec: SandboxSpec) -> Sandbox:
        """A pristine sandbox. Raises ``OSError`` subclasses when its root is no directory."""
        if spec.image is not None:
            raise ValueError(
                f"spec.image: {spec.image!r} needs the docker backend, or give an extracted root"
            )
        root = None if spec.root is None else await asyncio.to_thread(_directory, spec.root)
        return await self._open(spec, None, limits=dataclasses.asdict(spec.limits), root=root, snapshot=None)

    async def fork(self, snapshot: Snapshot) -> Sandbox:
        state = self.recall(snapshot)
        return await self._open(snapshot.spec, state, limits=None, root=None, snapshot=snapshot.name)

    async def _open(self, spec: SandboxSpec, state: ShellState | None, **arguments: Any) -> Sandbox:
        box = NamespacesSandbox(self, self.new_name("sandbox"), spec, state)
        self._boxes[box.id] = box
        try:
            await box.replace("create", **arguments)
        except BaseException:
            await box.close()
            raise
        return box

    async def destroy(self, box: NamespacesSandbox) -> None:
        """For a sandbox that closes: end it in the hub, where that still runs."""
        if self._boxes.pop(box.id, None) is not None and self._link is not None and self._link.death is None:
            with contextlib.suppress(SandboxDied):  # the hub went, and the sandbox with it
                await self.request("destroy", box=box.id)

    # ------------------------------------------------------------ snapshots
    def new_name(self, kind: str) -> str:
        return f"{kind}-{next(self._names)}"

    def abandon(self, name: str) -> None:
        """Let go of a snapshot whose taking did not come to its end."""
        if self._link is not None:
            self._link.post("drop", snapshot=name)

    def remember(self, name: str, state: ShellState | None) -> None:
        self._snapshots[name] = state

    def recall(self, snapshot: Snapshot) -> ShellState | None:
        """A snapshot's shell. Raises ``ValueError`` for one that was dropped or is another backend's."""
        if snapshot.backend != self.name or snapshot.name not in self._snapshots:
            raise ValueError(f"snapshot: {snapshot.name!r} was dropped or is of another backend")
        return self._snapshots[snapshot.name]

    async def drop(self, snapshot: Snapshot) -> None:
        self.recall(snapshot)
        del self._snapshots[snapshot.name]
        await self.request("drop", snapshot=snapshot.name)


def _directory(path: Path) -> str:
    resolved = str(path.resolve(strict=True))
    if not os.path.isdir(resolved):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), resolved)
    return resolved
