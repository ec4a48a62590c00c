"""The process backend: the directories and the keeper that its sandboxes share."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import shutil
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from turnwise.sandbox.contract import (
    Backend,
    BackendUnavailable,
    Probe,
    SandboxDied,
    SandboxError,
    SandboxSpec,
    Snapshot,
)
from turnwise.sandbox.egress import Egress
from turnwise.sandbox.process import workspace
from turnwise.sandbox.process.keeper.trees import remove
from turnwise.sandbox.process.link import GRACE, Link
from turnwise.sandbox.process.sandbox import TREE_TIMEOUT, ProcessSandbox

logger = logging.getLogger(__name__)

LOST = (
    "file system isolation",
    "network isolation",
    "network allow-list (commands are told of the proxy, nothing makes them use it)",
    "process isolation",
    "user isolation",
    "other users than the agent",
    "memory limit of the whole (each process has its own)",
    "process limit",
    "processor limit",
    "disk quota",
)
"""What every platform lacks here."""

KEEPER = """
import sys, types
for name in ("turnwise", "turnwise.sandbox", "turnwise.sandbox.process"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = sys.argv[3:]
from turnwise.sandbox.process.keeper.serve import main
main()
"""
"""Starts the keeper under its full name without running what the packages above it import."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """A snapshot's copy, and the directory it was copied from."""

    directory: Path
    source: Path


def private_directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="turnwise-")).resolve()


class ProcessBackend(Backend):
    """Sandboxes that isolate nothing; see the package for what that means."""

    name = "process"

    def __init__(self) -> None:
        self.link = Link()
        self._numbers = itertools.count(1)
        self._sandboxes: set[ProcessSandbox] = set()
        self._snapshots: dict[str, Frozen] = {}
        self._proxies: dict[tuple[str, ...], dict[str, str]] = {}
        self._serving = AsyncExitStack()
        self._directory: Path | None = None
        self.keeper: Process | None = None

    @classmethod
    def probe(cls) -> Probe:
        lost = LOST if sys.platform == "linux" else (*LOST, "end of daemons that leave their process group")
        if os.name != "posix" or not shutil.which("sh"):
            return Probe(cls.name, False, "there is no POSIX shell", "run on Linux, macOS or WSL", lost)
        return Probe(cls.name, True, f"{sys.platform}; isolates nothing: for trusted tasks only", "", lost)

    async def start(self) -> None:
        probe = self.probe()
        if not probe.available:
            raise BackendUnavailable(f"process backend: {probe.detail}; {probe.remedy}")
        logger.warning("The process backend isolates nothing. Lost here: %s.", "; ".join(probe.lost))
        self._directory = await asyncio.to_thread(private_directory)
        ours, theirs = socket.socketpair()
        try:
            self.keeper = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-B", "-c", KEEPER),
                *(str(theirs.fileno()), str(self._directory), str(Path(__file__).parent)),
                stdin=DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
            )
            await asyncio.get_running_loop().create_connection(lambda: self.link, sock=ours)
        except BaseException:
            ours.close()
            await self.close()
            raise
        finally:
            theirs.close()

    async def create(self, spec: SandboxSpec) -> ProcessSandbox:
        for name, value in (("root", spec.root), ("image", spec.image)):
            if value is not None:
                raise ValueError(f"spec.{name}: {value} needs a backend that can change the root file system")
        sandbox = await self._add(spec)
        await asyncio.to_thread(sandbox.furnish)
        return sandbox

    async def fork(self, snapshot: Snapshot) -> ProcessSandbox:
        self.frozen(snapshot)
        sandbox = await self._add(snapshot.spec)
        try:
            await sandbox.begin(snapshot)
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    async def drop(self, snapshot: Snapshot) -> None:
        directory = self.frozen(snapshot).directory
        del self._snapshots[snapshot.name]
        await asyncio.to_thread(remove, str(directory))

    async def close(self) -> None:
        for sandbox in self._sandboxes:
            sandbox.closed = True
        self._sandboxes.clear()
        self.link.close()
        self._proxies.clear()
        await self._serving.aclose()
        if self.keeper is not None:
            try:
                async with asyncio.timeout(GRACE):
                    await self.keeper.wait()
            except TimeoutError:
                self.keeper.kill()
                await self.keeper.wait()
            self.keeper = None
        if self._directory is not None:
            await asyncio.to_thread(remove, str(self._directory))  # the keeper did, unless it was killed
            self._directory = None

    # -- for its sandboxes
    def check(self) -> None:
        """Raise :class:`SandboxDied` when nobody keeps the sandboxes any more."""
        if self.link.transport is None:
            raise SandboxDied("the process backend is not running")

    def forget(self, sandbox: ProcessSandbox) -> None:
        self._sandboxes.discard(sandbox)

    def frozen(self, snapshot: Snapshot) -> Frozen:
        """Where a snapshot is. Raises ``ValueError`` for one that was dropped or is another's."""
        if snapshot.backend != self.name or snapshot.name not in self._snapshots:
            raise ValueError(f"snapshot: {snapshot.name!r} was dropped or is of another backend")
        return self._snapshots[snapshot.name]

    async def freeze(self, sandbox: ProcessSandbox, processes_ended: int) -> Snapshot:
        """Copy a sandbox whose processes have ended."""
        name = f"snapshot-{next(self._numbers)}"
        target = self._place(name)
        await self._copy(sandbox.directory, target)
        self._snapshots[name] = Frozen(target, sandbox.directory)
        size = await asyncio.to_thread(workspace.size, target)
        return Snapshot(name, self.name, sandbox.spec, size, processes_ended)

    async def thaw(self, snapshot: Snapshot, target: Path) -> Path:
        """Copy a snapshot to a place; returns where its files were when it was taken."""
        frozen = self.frozen(snapshot)
        await self._copy(frozen.directory, target)
        return frozen.source

    def _place(self, name: str) -> Path:
        self.check()
        assert self._directory is not None
        return self._directory / name

    async def _add(self, spec: SandboxSpec) -> ProcessSandbox:
        name = f"process-{next(self._numbers)}"
        place, proxy = self._place(name), await self._proxy(spec.network) if spec.network else {}
        sandbox = ProcessSandbox(self, name, spec, place, proxy)
        self._sandboxes.add(sandbox)
        return sandbox

    async def _proxy(self, allowed: tuple[str, ...]) -> dict[str, str]:
        """The variables that tell of the proxy of an allow-list, one for all sandboxes with the same.

        A fork's shell has the variables of the sandbox it was forked of, which may be gone.
        """
        if allowed not in self._proxies:
            listener, egress = socket.create_server(("127.0.0.1", 0)), Egress(allowed, name=self.name)
            self._proxies[allowed] = egress.variables(listener.getsockname()[1])
            await self._serving.enter_async_context(egress.serve(listener))
        return self._proxies[allowed]

    async def _copy(self, source: Path, target: Path) -> None:
        """``cp -a``: owners, modes, times, links and pipes; blocks are shared where the disk can.

        It may be an ordinary user's, whom an agent of the same user can close a directory to.
        """
        closed = await asyncio.to_thread(workspace.open_up, source)
        argv = ["cp", "-ac" if sys.platform == "darwin" else "-a", str(source), str(target)]
        env = {"PATH": os.environ.get("PATH", os.defpath)}
        fields = {"box": "", "argv": argv, "env": env, "cwd": "/", "limits": {}, "cap": 1000}
        head, output = await self.link.call("exec", timeout=TREE_TIMEOUT, **fields)
        if not head["result"] or head["result"][0] != 0:
            raise SandboxError(f"copying {source} failed: {output.decode(errors='replace')}")
        for tree in (source, target):
            await asyncio.to_thread(workspace.shut, tree, closed)
