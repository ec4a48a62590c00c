"""A run's folder: what is where, who may write it, and what a run comes down to.

config.yaml     the recipe as resolved
metrics.jsonl   a row per step, evaluation and event
episodes/       every episode, a file per step
credit/         what the stages made of each turn, a file per step
checkpoints/    model, tokenizer, optimiser and progress; ``latest`` names the newest
summary.json    the result
"""

from __future__ import annotations

import fcntl
import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field

from turnwise.envs.errors import UsageError
from turnwise.envs.types import Model, SandboxRecord
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.table import TurnTable

DRAFT = ".config.tmp"
"""What a folder is given its first file by; a folder that holds nothing else is empty."""
CREDIT_COLUMNS = ("step_reward", "return", "value", "advantage")
"""Columns kept of every turn, where the recipe's stages give them."""


class Summary(Model):
    """The result of a run: ``summary.json``."""

    recipe: str
    env: str
    seed: int
    steps: int
    """Training steps done."""
    episodes: int
    """Training episodes; demonstrations and evaluations are not counted."""
    held_out_success: float | None
    """Mean score on held-out tasks; None where no episode could be scored."""
    interval: tuple[float, float] | None
    """Its 95% interval."""
    rates: dict[str, float] = Field(default_factory=dict)
    """On the held-out tasks: completion, modified, resolved, turns, tokens and others, as they are logged."""
    failures: dict[str, int] = Field(default_factory=dict)
    """How many held-out episodes failed in which way."""
    assurance: dict[str, int] = Field(default_factory=dict)
    """How many held-out grades are protected in which way, where the environment has several."""
    task_set_hash: str
    """Of the held-out tasks."""
    cpu_seconds: float
    """Of the training process and of all it started and that has ended."""
    wall_seconds: float
    peak_rss_mb: float
    """Of the training process."""
    stopped: str
    """Why it ended: ``finished``, or a guard's reason."""
    sandbox: SandboxRecord | None = None
    """What its episodes ran in: the backend, and the image with its digest."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run."""

    folder: Path
    summary: Summary


def create(folder: Path, recipe: Recipe) -> None:
    """Start a run's folder. Raises ``UsageError`` for one that holds something already."""
    claim(folder)
    begin(folder, recipe)


def claim(folder: Path) -> None:
    """Make a folder for what is there before a run begins. Raises what :func:`create` raises."""
    if folder.exists() and (not folder.is_dir() or begun(folder)):
        raise UsageError(
            f"run {str(folder)!r} exists; add --resume to go on with it, or choose another folder"
        )
    with _refusing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def begin(folder: Path, recipe: Recipe) -> None:
    """Write ``config.yaml``, whole or not at all: with it the folder is a run."""
    draft = folder / DRAFT
    with _refusing(folder):
        draft.write_text(recipe.to_yaml(), encoding="utf-8")
        draft.replace(folder / "config.yaml")


@contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"run {str(folder)!r} cannot be written: {error.strerror}") from None


def begun(folder: Path) -> bool:
    """Whether a folder holds anything; one that was killed before its config.yaml was whole does not."""
    return folder.exists() and any(path.name != DRAFT for path in folder.iterdir())


@contextmanager
def locked(folder: Path, file_name: str = "config.yaml") -> Iterator[None]:
    """Hold a run's folder, by one of its files, until the block or the process ends. Raises ``UsageError``
    where another process does."""
    with (folder / file_name).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"run {str(folder)!r} is going on in another process; wait for it, or end it"
            ) from None
        yield


def sweep(folder: Path) -> None:
    """Before a run goes on: remove the summary of how it ended, and drafts that a killed process left."""
    for pattern in ("summary.json", ".*.jsonl.*", "episodes/.*.jsonl.*"):
        for old in folder.glob(pattern):
            old.unlink()


def stored_recipe(folder: Path) -> Recipe:
    """The recipe of an existing run. Raises ``UsageError`` where there is no run."""
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"run {str(folder)!r} does not exist: it has no config.yaml")
    return Recipe.load(folder / "config.yaml")


def finished(folder: Path, steps: int) -> Run | None:
    """The run of a folder that has done all its training steps and was evaluated; else None."""
    path = folder / "summary.json"
    if not path.is_file():
        return None
    summary = Summary.model_validate_json(path.read_text(encoding="utf-8"))
    return Run(folder, summary) if summary.stopped == "finished" and summary.steps >= steps else None


def write_credit(folder: Path, step: int, table: TurnTable) -> None:
    """What every turn of a step was credited with, a line per episode that was trained on."""
    path = folder / "credit" / f"step-{step:06d}.jsonl"
    path.parent.mkdir(exist_ok=True)
    columns = [name for name in CREDIT_COLUMNS if name in table]
    starts = [*table.first.nonzero()[0].tolist(), len(table)]
    names = table.names["episode_id"]
    lines = []
    for i, start in enumerate(starts[:-1]):
        values = {c: [round(float(v), 6) for v in table[c][start : starts[i + 1]]] for c in columns}
        lines.append(json.dumps({"episode_id": str(names[i]), "columns": values}) + "\n")
    scratch = path.with_suffix(".tmp")
    with writing(path):
        scratch.write_text("".join(lines), encoding="utf-8")
    scratch.replace(path)


def write_summary(folder: Path, summary: Summary) -> None:
    """Write ``summary.json``, whole or not at all."""
    scratch = folder / ".summary.tmp"
    with writing(folder / "summary.json"):
        scratch.write_text(summary.model_dump_json(indent=2) + "\n", encoding="utf-8")
    scratch.replace(folder / "summary.json")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in an error of the disk, which where it is full does not say itself."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@dataclass(frozen=True, slots=True)
class Clock:
    """Wall and CPU seconds since a run began, those before a resume included."""

    wall: float
    cpu: float

    @classmethod
    def start(cls, wall: float, cpu: float) -> Self:
        """A clock that shows these seconds now."""
        return cls(time.monotonic() - wall, cpu_seconds() - cpu)

    def spent(self) -> tuple[float, float]:
        """Wall and CPU seconds."""
        return time.monotonic() - self.wall, cpu_seconds() - self.cpu


def cpu_seconds() -> float:
    """Processor time of this process and of its ended children."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def peak_rss_mb() -> float:
    """Peak resident memory of this process, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
