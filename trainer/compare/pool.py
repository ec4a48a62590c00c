"""Runs in processes of their own, some at once.

A process is spawned for every job, with one thread for arithmetic, and writes what it has to say into a log
beside the run's folder. It tells its parent through a pipe how far it has come, and dies with it: the
parent's end is seen by a thread, so that not even ``kill -9`` of the parent leaves a run behind. Of a job
that fails only the exit code and the log are left; the others go on.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol, TypeAlias

from turnwise.envs.errors import UsageError
from turnwise.sandbox.interrupts import interrupts_blocked
from turnwise.trainer import run_folder
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.tracker import Row

PATIENCE = 5.0
"""Seconds that a process is given to end before it is killed."""
EVERY = 0.2
"""Seconds between two reports on a phase."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The warm start that runs of one seed have in common."""

    folder: Path
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Training:
    """A run, from the warm start in another folder, or with one of its own where that is None."""

    folder: Path
    recipe: Recipe
    warm: Path | None


Job: TypeAlias = WarmUp | Training


class Listener(Protocol):
    """Hears how the jobs go."""

    def started(self, job: Job) -> None:
        """A job's process was started."""

    def phase(self, job: Job, name: str, done: int, total: int) -> None:
        """``done`` of ``total`` parts of a phase of a job."""

    def row(self, job: Job, row: Row) -> None:
        """A row of metrics of a job."""

    def ended(self, job: Job, failure: str | None) -> None:
        """A job is over, or was before; ``failure`` says why its process broke off."""


def log_file(folder: Path) -> Path:
    """Where the process of a run's folder writes what it has to say."""
    return folder.with_name(f"{folder.name}.log")


def settled(folder: Path) -> bool:
    """Whether a run has come to its end, be it a guard's; such a run is not touched again."""
    return (folder / "summary.json").is_file()


def carry_out(jobs: Sequence[Job], at_once: int, listener: Listener) -> None:
    """Carry out what is not settled of the jobs, in their order; the listener hears of those that fail.

    A training starts when the warm start it is from is over. Whatever ends this call ends the processes.
    """
    pool = _Pool(listener)
    waiting = list(jobs)
    try:
        while waiting or pool.running:
            busy = {job.folder for job, _ in pool.running.values()} | {job.folder for job in waiting}
            ready = [job for job in waiting if not (isinstance(job, Training) and job.warm in busy)]
            for job in ready[: max(0, at_once - len(pool.running))]:
                waiting.remove(job)
                pool.begin(job)
            if pool.running:
                pool.hear()
    finally:
        pool.close()


class _Pool:
    """The processes at work."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.running: dict[Connection, tuple[Job, SpawnProcess]] = {}
        self._failures: dict[Path, str] = {}
        self._context = multiprocessing.get_context("spawn")

    def begin(self, job: Job) -> None:
        """Start a job's process, where there is something left to do."""
        if settled(job.folder):
            self.listener.ended(job, None)
            return
        if isinstance(job, Training) and job.warm in self._failures:
            self._failed(job, f"warm start: {self._failures[job.warm]}")
            return
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(job, theirs), daemon=True)
        with _one_thread(), _without_ctrl_c():
            process.start()
            self.running[ours] = (job, process)
        theirs.close()
        self.listener.started(job)

    def hear(self) -> None:
        """Wait until a process says something or ends."""
        for pipe in wait(list(self.running)):
            assert isinstance(pipe, Connection)
            job, process = self.running[pipe]
            try:
                message = pipe.recv()
            except EOFError:
                self._ended(pipe, job, process)
                continue
            match message:
                case ("phase", name, done, total):
                    self.listener.phase(job, name, done, total)
                case ("row", row):
                    self.listener.row(job, row)

    def close(self) -> None:
        """End every process."""
        for _, process in self.running.values():
            process.terminate()
        for pipe, (_, process) in self.running.items():
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()

    def _ended(self, pipe: Connection, job: Job, process: SpawnProcess) -> None:
        process.join()
        pipe.close()
        del self.running[pipe]
        if settled(job.folder):
            self.listener.ended(job, None)
        else:
            self._failed(job, _reason(job, process.exitcode or 0))

    def _failed(self, job: Job, reason: str) -> None:
        self._failures[job.folder] = reason
        self.listener.ended(job, reason)


def _reason(job: Job, code: int) -> str:
    """Why a process ended without a summary: its last words, or the signal that killed it."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = log_file(job.folder).read_text(encoding="utf-8", errors="replace").split("\n")
    words = next((line.strip() for line in reversed(lines) if line.strip()), "no reason given")
    return f"exit code {code}: {words}"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes started in this block compute in one thread each: more only get into each other's way."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Ctrl-C in this block is heard of at its end, and by processes started in it when they are ready for it.

    Blocking it is for those processes, and not enough for this one: another thread takes it, and the main
    thread hears of it.
    """
    heard: list[int] = []
    listens = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number)) if listens else None
    try:
        with interrupts_blocked():
            yield
    finally:
        if listens:
            signal.signal(signal.SIGINT, before)
        if heard:
            signal.raise_signal(signal.SIGINT)


# ---------------------------------------------------------------- in the process


class _Reporter:
    """Tells the parent of a run's progress, as its tracker and its watcher."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._said = 0.0

    def phase(self, name: str, done: int, total: int) -> None:
        """Not every part is worth a message."""
        now = time.monotonic()
        if now - self._said >= EVERY:
            self._said = now
            self._pipe.send(("phase", name, done, total))

    def log(self, row: Row) -> None:
        """Pass on a row."""
        self._pipe.send(("row", dict(row)))

    def close(self) -> None:
        """The pipe closes with the process."""


def _work(job: Job, pipe: Connection) -> None:
    """The process of a job. Ctrl-C is the parent's to handle; what the process starts hears of it again."""
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.set_inheritable(pipe.fileno(), False)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with log_file(job.folder).open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    asyncio.run(_carry_out(job, _Reporter(pipe)))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


async def _carry_out(job: Job, reporter: _Reporter) -> None:
    from turnwise.trainer.begin import begin_from, warm_up
    from turnwise.trainer.train import train

    if (job.folder / "config.yaml").is_file() and run_folder.stored_recipe(job.folder) != job.recipe:
        raise UsageError(f"run {str(job.folder)!r} was begun with other settings; remove it to begin anew")
    match job:
        case WarmUp():
            await warm_up(job.recipe, run=job.folder, tracker=reporter, watcher=reporter)
        case Training(warm=warm):
            if warm is not None and not run_folder.begun(job.folder):
                begin_from(warm, job.folder, job.recipe)
            await train(job.recipe, run=job.folder, resume=True, trackers=[reporter], watcher=reporter)
