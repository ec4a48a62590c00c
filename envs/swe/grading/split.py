"""Running a suite split: the judge a process of ours, the package in a new sandbox for every test.

    owner (asyncio) ── control socket ── judge (pytest, trusted)
       └ sandbox ── worker ── its own Unix socket ──┘

The judge listens on a socket for every worker that it wants and names it; the owner forks a sandbox from
one snapshot of the graded tree, makes that one socket reachable inside, and starts the worker on it. When
the judge is done with it the sandbox is closed. A sandbox that fails is the machine's failure and ends
the grading as such; whatever a worker does wrong is noted by the judge and counts against the code.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from turnwise.envs.swe.grading import judges
from turnwise.envs.swe.grading.machines import GradingError, Machines, import_roots, require_pytest
from turnwise.envs.swe.grading.suite import Suite
from turnwise.sandbox.contract import TOOLING, LimitExceeded, SandboxError, Snapshot

SOCKET = f"{TOOLING}/socket"
JUDGE_MEMORY = 2 << 30
"""Address space of the judge: an answer may be a number that a test makes a list of."""
START_SECONDS = 60.0
GRACE_SECONDS = 5.0
"""For the judge's word of a worker that has already ended."""
WORKER_FILES = ("bootstrap.py", "codec.py", "worker.py")
AHEAD = 2
"""Workers that are started before a test needs them."""


@dataclass(slots=True)
class Seen:
    """What the judge has reported."""

    collected: tuple[str, ...] = ()
    seeded: tuple[str, ...] = ()
    uncollected: dict[str, str] = field(default_factory=dict)
    phases: dict[str, dict[str, str]] = field(default_factory=dict)
    """Test: phase: outcome."""
    details: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    surface: Any = None
    finished: bool = False

    def passed(self) -> dict[str, bool]:
        whole = {"setup": "passed", "call": "passed", "teardown": "passed"}
        return {name: phases == whole for name, phases in self.phases.items()}


@dataclass(frozen=True, slots=True)
class Order:
    """What a judge is to do: run tests, or (``modules``) tell what those modules offer."""

    suite: Suite
    seeds: Mapping[str, int] = field(default_factory=dict)
    surface: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    ids: Sequence[str] | None = None
    """Tests to run; None for all."""
    modules: Sequence[str] | None = None

    def message(self, folder: str, machines: Machines) -> dict[str, Any]:
        rules = self.suite.rules
        return {
            "tests": f"{folder}/tests",
            "sockets": folder,
            "files": sorted({name.partition("::")[0] for name in self.suite.ids}),
            "packages": rules.packages,
            "roots": import_roots(rules),
            "libraries": machines.libraries,
            "surface": self.surface,
            "ids": self.ids,
            "seeds": self.seeds,
            "bounds": self.suite.bounds.model_dump(),
            "memory": JUDGE_MEMORY,
            "ahead": AHEAD,
            "modules": self.modules,
        }

    @property
    def deadline(self) -> float:
        tests = len(self.ids if self.ids is not None else self.suite.ids) + 1
        return START_SECONDS + tests * (self.suite.bounds.test_seconds + 1)


async def judge(order: Order, snapshot: Snapshot, machines: Machines) -> Seen:
    """Run a judge to its end, over a snapshot that holds the repository and ``WORKER_FILES``.

    Raises ``SandboxError`` for failures of machine or judge.
    """
    require_pytest()
    with tempfile.TemporaryDirectory(prefix="turnwise-judge-") as folder:
        return await _Owner(order, folder, snapshot, machines).run()


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


class _Owner:
    def __init__(self, order: Order, folder: str, snapshot: Snapshot, machines: Machines) -> None:
        self._order, self._folder, self._snapshot, self._machines = order, folder, snapshot, machines
        self._seen = Seen()
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._connected: dict[str, asyncio.Event] = {}

    async def run(self) -> Seen:
        mine, theirs = socket.socketpair()
        reading, writing = os.pipe()
        complaints = asyncio.create_task(_read_all(reading))
        try:
            with theirs:
                judge = await asyncio.to_thread(judges.start, self._folder, theirs, writing)
        except BaseException:
            mine.close()
            raise
        finally:
            os.close(writing)
        try:
            # Only now, when the judge will remove them whatever becomes of us.
            await asyncio.to_thread(_write, Path(self._folder, "tests"), self._order.suite.files)
            async with asyncio.timeout(self._order.deadline):
                await self._serve(mine)
        except TimeoutError:
            self._seen.notes.append("the tests did not end in time")
        finally:
            mine.close()
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.killpg(judge, signal.SIGKILL)
            said = await complaints
        if not self._seen.finished and not self._seen.notes:
            raise GradingError(f"the judge ended early: {_last_line(said) or 'it said nothing'}")
        return self._seen

    async def _serve(self, mine: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=mine, limit=64 << 20)
        writer.write(json.dumps(self._order.message(self._folder, self._machines)).encode() + b"\n")
        try:
            async with asyncio.TaskGroup() as tasks:
                while line := await reader.readline():
                    message = json.loads(line)
                    if "want" in message:
                        path = message["want"]
                        self._connected[path] = asyncio.Event()
                        self._workers[path] = tasks.create_task(self._worker(path))
                    elif "connected" in message:
                        self._connected[message["connected"]].set()
                    elif "done" in message:
                        self._workers.pop(message["done"]).cancel()
                    else:
                        self._note(message)
                for task in self._workers.values():
                    task.cancel()
        except* SandboxError as failed:
            raise failed.exceptions[0] from None
        finally:
            writer.close()

    def _note(self, message: dict[str, Any]) -> None:
        seen = self._seen
        match message:
            case {"test": name, "phase": phase, "outcome": outcome, "detail": detail}:
                phases = seen.phases.setdefault(name, {})
                phases[phase] = outcome if phase not in phases else "twice"
                if detail:
                    seen.details[name] = detail
            case {"collected": ids, "seeded": seeded}:
                seen.collected, seen.seeded = tuple(ids), tuple(seeded)
            case {"uncollected": name, "detail": detail}:
                seen.uncollected[name] = detail
            case {"note": text}:
                seen.notes.append(text)
            case {"surface": surface}:
                seen.surface = surface
            case {"finished": True}:
                seen.finished = True

    async def _worker(self, path: str) -> None:
        """A sandbox from fork to close; cancelled when the judge is done with it."""
        try:
            await self._run_worker(path)
        except (OSError, LimitExceeded) as error:
            raise GradingError(f"a worker's sandbox failed: {error}") from error

    async def _run_worker(self, path: str) -> None:
        async with await self._machines.backend.fork(self._snapshot) as sandbox:
            await sandbox.expose(Path(path), SOCKET)
            command = [*self._machines.python, f"{TOOLING}/bootstrap.py", "worker", SOCKET]
            result = await sandbox.exec(command, cwd="/", timeout=self._order.deadline)
            try:  # it connects before it touches the code under test
                async with asyncio.timeout(GRACE_SECONDS):
                    await self._connected[path].wait()
            except TimeoutError:
                said = _last_line(result.stderr) or result.exit_code
                raise GradingError(f"a worker could not be started: {said}") from None
            if result.limit is not None:
                self._seen.notes.append(f"the code used up its {result.limit}")


async def _read_all(descriptor: int) -> bytes:
    """What comes through a pipe until nobody holds its other end: the end of the judge, too."""
    reader = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", 0)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        return await reader.read()
    finally:
        transport.close()


def _last_line(said: bytes) -> str:
    return said.decode(errors="replace").strip().rpartition("\n")[2]
