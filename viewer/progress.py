"""Live progress of a run: a display that is redrawn on a terminal, plain lines everywhere else.

It hears of the run as a tracker (rows of metrics) and as a watcher (how far the work at hand has come).
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from turnwise.trainer.tracker import Row
from turnwise.viewer.words import clip, duration, interval, percent, printable

LINE_SECONDS = 5.0
"""Without a terminal: time between two lines of a long phase; every step has a line of its own."""
LONG_PHASES = ("demonstrations", "warm start")
"""Phases that go on for many seconds before there is a row of metrics."""
EVALUATED = {"eval": "evaluation", "final": "held out"}
"""What an evaluation is called by its kind of row; what is held out is the test split, looked at last."""
BLUE = "#3f82bd"
BLOCKS = " ▁▂▃▄▅▆▇█"


class Progress:
    """Shows a run of ``steps`` training steps while it goes on. Use it as ``with``; 0 steps: no training."""

    def __init__(self, console: Console, title: str, steps: int) -> None:
        self.console = console
        self.title = title
        self.steps = steps
        self._phase = ("starting", 0, 0)
        self._rows: dict[str, Row] = {}
        self._curve: list[float] = []
        self._first: tuple[int, float] | None = None
        """The first training step seen and when it ended."""
        self._spoke = time.monotonic()
        self._named = False
        self._begun = False
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _begin(self) -> None:
        """Appear with the first sign of work, so that a mistake found before it shows nothing but itself."""
        if self._begun:
            return
        self._begun = True
        if self.console.is_terminal:
            self._live = Live(get_renderable=self.view, console=self.console, transient=not self.steps)
            self._live.start()
        else:
            self._print(self.title)

    # -- Watcher

    def phase(self, name: str, done: int, total: int) -> None:
        """``done`` of ``total`` parts of a named phase."""
        self._begin()
        self._phase = (name, done, total)
        if name in LONG_PHASES and self._due():
            self._say(f"{name}: {done:,} of {total:,}")

    # -- Tracker

    def log(self, row: Row) -> None:
        """Take one row of metrics."""
        self._begin()
        kind = str(row["kind"])
        self._rows[kind] = row
        if kind == "train":
            self._first = self._first or (row["step"], time.monotonic())
            self._curve.append(row.get("success", 0.0))
        if kind in ("warning", "stop"):
            self._print(f"{kind} at step {row['step']}: {printable(str(row['reason']))}")
        elif kind == "train" and self._live is None:
            self._say(self._training(row))
        elif kind == "warm_start" and self._live is None:
            self._say(self._warm_start(row))
        elif kind in ("eval", "final") and self._live is None:
            self._say(f"{EVALUATED[kind]}: {self._evaluation(row)}")

    def close(self) -> None:
        """Nothing to flush."""

    # -- plain lines

    def _due(self) -> bool:
        return self._live is None and time.monotonic() - self._spoke >= LINE_SECONDS

    def _say(self, line: str) -> None:
        self._spoke = time.monotonic()
        self._print(line)

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    def _training(self, row: Row) -> str:
        """Milestones are named once, in their order."""
        names = ", ".join(name.replace("_", " ") for name in row["milestones"])
        if names and not self._named:
            self._print(f"milestones, in this order: {names}")
            self._named = True
        reached = " ".join(percent(share) for share in row["milestones"].values())
        return (
            f"step {row['step']}/{self.steps}: success {percent(row.get('success', 0.0))}, "
            + (f"milestones {reached}, " if reached else "")
            + f"{row['tokens_per_second']:,.0f} tokens/s, {self._left()} left"
        )

    def _warm_start(self, row: Row) -> str:
        return f"warm start, round {row['round']}: success {percent(row['success'])}, loss {row['loss']:.2f}"

    # -- the display

    def view(self) -> RenderableType:
        """The display as it is now."""
        name, done, total = self._phase
        step = self._rows.get("train", {}).get("step", 0)
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_row("now", _bar(done, total, f"{name}, {done:,} of {total:,}" if total else name))
        if self.steps:
            table.add_row("steps", _bar(step, self.steps, f"{step} of {self.steps}, {self._left()} left"))
        for row in self._measured():
            table.add_row(*row)
        return Group(Text(self.title, style="bold"), table)

    def _measured(self) -> list[tuple[str, RenderableType]]:
        """What the rows so far say."""
        rows: list[tuple[str, RenderableType]] = []
        if warm := self._rows.get("warm_start"):
            rows.append(("warm start", Text(self._warm_start(warm).removeprefix("warm start, "))))
        if train := self._rows.get("train"):
            curve = "".join(BLOCKS[round(s * (len(BLOCKS) - 1))] for s in self._curve[-24:])
            rows.append(("success", Text(f"{percent(self._curve[-1])}  {curve}")))
        for kind, name in EVALUATED.items():
            if row := self._rows.get(kind):
                rows.append((name, Text(self._evaluation(row))))
        if train:
            for name, share in train["milestones"].items():
                rows.append((clip(name.replace("_", " "), 24), _bar(share, 1.0, percent(share))))
            rows.append(("speed", Text(f"{train['tokens_per_second']:,.0f} tokens/s")))
        return rows

    def _evaluation(self, row: Row) -> str:
        if "success" not in row:
            return f"no episode of {row['split']} could be scored"
        return (
            f"{percent(row['success'])} ({interval(row['low'], row['high'])}) on {row['tasks']} tasks of "
            f"{row['split']}, step {row['step']}"
        )

    def _left(self) -> str:
        """Time to the last step at the pace so far."""
        step = self._rows.get("train", {}).get("step", 0)
        if self._first is None or step <= self._first[0]:
            return "unknown time"
        pace = (time.monotonic() - self._first[1]) / (step - self._first[0])
        return duration(pace * (self.steps - step))


def _bar(done: float, total: float, words: str) -> RenderableType:
    line = Table.grid(padding=(0, 2, 0, 0))
    bar = ProgressBar(total or 1, done, width=24, complete_style=BLUE, finished_style=BLUE)
    line.add_row(bar, Text(words))
    return line
