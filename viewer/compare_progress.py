"""Live progress of a comparison: what runs now and how far it is on a terminal, a line per run elsewhere."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from turnwise.trainer.compare.pool import Job, WarmUp
from turnwise.trainer.run_folder import Summary
from turnwise.trainer.tracker import Row
from turnwise.viewer.progress import BLUE
from turnwise.viewer.words import duration, percent, printable


class Silent:
    """Hears everything and shows nothing."""

    def started(self, job: Job) -> None:
        """Nothing is shown."""

    def phase(self, job: Job, name: str, done: int, total: int) -> None:
        """Nothing is shown."""

    def row(self, job: Job, row: Row) -> None:
        """Nothing is shown."""

    def ended(self, job: Job, failure: str | None) -> None:
        """Nothing is shown."""


class CompareProgress:
    """Shows the runs of a comparison. Use it as ``with``; ``total`` is how many trainings there are."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self.console = console
        self.title = title
        self.total = total
        self.done = 0
        self._began = time.monotonic()
        self._running: dict[Path, tuple[Job, str, int, int]] = {}
        self._rows: dict[Path, Row] = {}
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    # -- Listener

    def started(self, job: Job) -> None:
        """Appear with the first process, so that a mistake found before it shows nothing but itself."""
        if self._live is None and self.console.is_terminal:
            self._live = Live(get_renderable=self.view, console=self.console, transient=True)
            self._live.start()
        self._running[job.folder] = (job, "starting", 0, 0)

    def phase(self, job: Job, name: str, done: int, total: int) -> None:
        """How far a phase has come."""
        self._running[job.folder] = (job, name, done, total)

    def row(self, job: Job, row: Row) -> None:
        """Keep what tells how well it does."""
        if "success" in row:
            self._rows[job.folder] = row

    def ended(self, job: Job, failure: str | None) -> None:
        """A line for every training, and for a warm start that failed."""
        kept = self._running.pop(job.folder, None) is None
        warm = isinstance(job, WarmUp)
        self.done += not warm
        if failure is not None:
            self._say(job, f"failed: {failure}")
        elif not warm:
            self._say(job, outcome(job) + (" (kept)" if kept else ""))

    def _say(self, job: Job, words: str) -> None:
        place = f"{self.done}/{self.total}"
        self.console.print(f"{place}  {named(job)}: {printable(words)}", soft_wrap=True)

    # -- the display

    def view(self) -> RenderableType:
        """The display as it is now."""
        table = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(3):
            table.add_column(no_wrap=True)
        spent = duration(time.monotonic() - self._began)
        words = f"{self.done} of {self.total} runs, {spent}"
        table.add_row(Text("runs", style="dim"), _bar(self.done, self.total), words)
        for job, phase, done, total in self._running.values():
            row = self._rows.get(job.folder)
            step = f"step {row['step']}, {percent(row['success'])}, " if row else ""
            table.add_row(Text(named(job)), _bar(done, total), Text(step + phase, style="dim"))
        return Group(Text(self.title, style="bold"), table)


def named(job: Job) -> str:
    """A job as one line names it; a tuning trial with its number."""
    trial = job.folder.parent.name
    note = f", {trial.replace('-', ' ')}" if trial.startswith("trial-") else ""
    return f"{job.recipe.name}, seed {job.recipe.seed}{note}"


def outcome(job: Job) -> str:
    """What a training ended with."""
    summary = Summary.model_validate_json((job.folder / "summary.json").read_text(encoding="utf-8"))
    success = "–" if summary.held_out_success is None else percent(summary.held_out_success)
    stopped = "" if summary.stopped == "finished" else f", stopped: {summary.stopped}"
    return f"{success} held out, {summary.cpu_seconds:,.0f} CPU seconds{stopped}"


def _bar(done: float, total: float) -> RenderableType:
    return ProgressBar(total or 1, done, width=16, complete_style=BLUE, finished_style=BLUE)
