"""The contract every sandbox backend keeps: what it offers, what it returns and what it raises.

A sandbox is one episode's private machine: files, processes and no network, or hosts of an allow-list
through a proxy (:mod:`turnwise.sandbox.egress`). A backend makes them,
from nothing or from a snapshot, and owns every kernel object they need, so that closing the backend
(or killing its process) leaves nothing behind.

What I/O raises is part of the contract. A failure belongs to one of three parties, and is told apart
here, once, at the boundary:

* the caller's path was wrong: the built-in ``OSError`` subclasses (``FileNotFoundError``,
  ``PermissionError``, ``IsADirectoryError``, ``NotADirectoryError``); the sandbox lives on;
* the agent overstepped a limit: :class:`LimitExceeded`; it counts against the agent;
* the sandbox or its host failed: :class:`SandboxDied` and other :class:`SandboxError`; it never does.

A command that fails, is killed or times out is not an exception but an :class:`ExecResult`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from turnwise.sandbox.egress.allowed import AllowList

MiB = 1 << 20

TOOLING = "/opt/turnwise"
"""Where what a task's tools need is written, beside its files: a place of the agent's own, which a backend
whose sandboxes have a file system of their own keeps writable, and in snapshots, whatever the root is."""

Resource = Literal["memory", "processes", "disk", "file_size", "output"]
"""A bounded resource, as named in :class:`LimitExceeded` and :attr:`ExecResult.limit`."""


class SandboxError(Exception):
    """The sandbox or its host failed; never the agent's fault."""


class SandboxDied(SandboxError):
    """The sandbox is gone (killed, closed or its backend ended); every later call raises this."""


class ShellSilent(SandboxError):
    """The persistent shell did not tell its state, which a snapshot would have lost; the sandbox lives on."""


class BackendUnavailable(SandboxError):
    """This machine cannot run the backend; the message names the reason and the remedy."""


class UserUnsupported(ValueError):
    """The sandbox has no other user than the agent; the message says where it would."""


class LimitExceeded(Exception):
    """The agent used up a bounded resource (its quota, its processes, its memory)."""

    def __init__(self, resource: Resource, message: str) -> None:
        super().__init__(message)
        self.resource: Resource = resource


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one sandbox. Sizes are bytes."""

    memory: int = 512 * MiB
    """Resident memory of all processes together."""
    processes: int = 256
    """Processes and threads alive at once."""
    cpus: float = 1.0
    """Processor time per second of wall time."""
    disk: int = 256 * MiB
    """Everything written, over all writable layers."""
    file_size: int = 256 * MiB
    """The largest single file a command may write."""
    output: int = 1 * MiB
    """What is kept of each of a command's output streams; the rest is dropped and marked."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What a sandbox is made of. Equal specs may share warm spares."""

    limits: Limits = field(default_factory=Limits)
    root: Path | None = None
    """An extracted root file system to run on; None is the host's ``/usr``, read-only."""
    image: str | None = None
    """A Docker image to run on, by name or id, in the place of ``root``; for the docker backend only."""
    network: tuple[str, ...] = ()
    """Hosts that may be reached over HTTP and TLS, through a proxy that commands are told of: ``host``
    and ``*.domain`` (ports 80 and 443), or either with ``:port``. None of them: the network is off.
    Raises ``ValueError`` for what is none of these."""

    def __post_init__(self) -> None:
        AllowList(self.network)


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command ended and what it printed."""

    exit_code: int
    """The exit status; ``128 + n`` when signal n ended it (137 on a timeout)."""
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    truncated: bool = False
    """True when a stream was cut at ``Limits.output``."""
    limit: Resource | None = None
    """The bound that ended it, where the backend can tell (an out-of-memory kill, say)."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One directory entry. Symbolic links are reported, not followed."""

    name: str
    kind: Literal["file", "directory", "symlink", "other"]
    size: int
    mode: int
    """Permission bits, as in ``0o644``."""
    links: int
    """Names that it has; a file with more than one has hard links."""


@dataclass(frozen=True, slots=True)
class Match:
    """One line found by :meth:`Sandbox.search`."""

    path: str
    line: int
    """Counted from 1."""
    text: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A frozen file system to fork from. It outlives the sandbox it was taken of.

    Processes are not part of it; ``processes_ended`` says how many ended when it was taken. The
    persistent shell's working directory and exported variables are, and a fork's shell starts there.
    """

    name: str
    backend: str
    spec: SandboxSpec
    size: int
    """Bytes written over the pristine root."""
    processes_ended: int = 0


class Sandbox(ABC):
    """One isolated machine. All paths are absolute, or relative to ``/workspace``."""

    id: str
    spec: SandboxSpec

    @abstractmethod
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
        """Run a command (a string goes to ``sh -c``) and all it starts, to the end of all of it.

        When the command ends or times out, everything it started is killed, daemons included.

        It is the agent's, who has no capability. ``user``, for whoever prepares a task, is another in the
        sandbox's ``/etc/passwd``, or ``root``, who may do with the sandbox's users and files as it likes. An
        unknown one is a command that failed. Raises :class:`UserUnsupported`.
        """

    @abstractmethod
    async def shell(self, command: str, *, timeout: float = 60.0) -> ExecResult:
        """Run a command in the persistent shell, which keeps directory, variables and jobs.

        Output of both streams comes as ``stdout``. A timeout ends that shell; the next call starts
        a new one. Raises ``RuntimeError`` when a command is already running in it.
        """

    @abstractmethod
    async def read(self, path: str, *, offset: int = 0, limit: int = 16 * MiB) -> bytes:
        """Read a regular file. Raises ``OSError`` subclasses; devices and pipes are refused."""

    @abstractmethod
    async def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file, making parent directories. Raises ``LimitExceeded('disk')`` on a full disk."""

    @abstractmethod
    async def write_tree(self, files: Mapping[str, bytes]) -> None:
        """Write many files in one round trip, as :meth:`write` does for each."""

    @abstractmethod
    async def read_tree(self, path: str, *, limit: int = 64 * MiB) -> dict[str, bytes]:
        """A frozen copy of every regular file below ``path``, keyed by relative path.

        Every process of the agent is ended first, so that nothing changes while it is read.
        Symbolic links are left out, never followed. Raises ``LimitExceeded('disk')`` beyond
        ``limit`` bytes.
        """

    @abstractmethod
    async def list(self, path: str) -> tuple[FileInfo, ...]:
        """The entries of a directory, sorted by name."""

    @abstractmethod
    async def stat(self, path: str) -> FileInfo:
        """What is at a path."""

    @abstractmethod
    async def delete(self, path: str) -> None:
        """Remove a file or a whole directory."""

    @abstractmethod
    async def search(self, pattern: str, path: str = "/workspace", *, limit: int = 200) -> tuple[Match, ...]:
        """Lines that match a regular expression, over all files below ``path``, in path order.

        Runs in the resident: no process is started. Raises ``ValueError`` for a bad pattern.
        """

    @abstractmethod
    async def expose(self, endpoint: Path, path: str) -> None:
        """Make one Unix socket of the owner's reachable inside, at ``path``, the network staying off."""

    @abstractmethod
    async def snapshot(self) -> Snapshot:
        """Freeze the files as they are. Running processes end (see :class:`Snapshot`).

        Raises :class:`ShellSilent`, and ends them all the same, when an idle shell does not tell its state.
        """

    @abstractmethod
    async def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot's files, in place."""

    @abstractmethod
    async def recycle(self) -> None:
        """Become a pristine sandbox again: nothing of before remains."""

    @abstractmethod
    async def close(self) -> None:
        """Destroy it. Closing twice is harmless."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@dataclass(frozen=True, slots=True)
class Probe:
    """What a backend finds out about this machine, without starting anything lasting."""

    backend: str
    available: bool
    detail: str
    """One line: the version, or why it cannot run."""
    remedy: str = ""
    """The command or setting that would make it available."""
    lost: tuple[str, ...] = ()
    """Protections this backend lacks here, each in a few words."""


class Backend(ABC):
    """Makes sandboxes and owns all they need. Use it as ``async with``."""

    name: str

    @classmethod
    @abstractmethod
    def probe(cls) -> Probe:
        """Whether and how well it runs here."""

    @classmethod
    def variant(cls, name: str) -> type[Backend]:
        """What ``BACKEND:NAME`` stands for. Raises ``ValueError`` for a backend that has no variants."""
        raise ValueError(f"sandbox backend: '{cls.name}:{name}': {cls.name!r} has no variants")

    @classmethod
    def variants(cls) -> tuple[str, ...]:
        """The full names of those that can be had here."""
        return ()

    @abstractmethod
    async def start(self) -> None:
        """Bring it up. Raises :class:`BackendUnavailable`."""

    @abstractmethod
    async def create(self, spec: SandboxSpec) -> Sandbox:
        """A pristine sandbox."""

    @abstractmethod
    async def fork(self, snapshot: Snapshot) -> Sandbox:
        """A new sandbox that starts from a snapshot."""

    @abstractmethod
    async def drop(self, snapshot: Snapshot) -> None:
        """Forget a snapshot; layers that forks still use stay until those end."""

    @abstractmethod
    async def close(self) -> None:
        """End every sandbox and leave nothing behind."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """``start`` and, whatever happens, ``close``."""
        await self.start()
        try:
            yield self
        finally:
            await self.close()
