"""Where metrics go: one interface, JSON lines always, TensorBoard and others on request.

A row is flat or nested JSON with a ``kind`` and a ``step``; services that know only scalars get the
nested ones as ``a/b``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from turnwise.envs.errors import UsageError, unknown
from turnwise.trainer.run_folder import writing

Row = Mapping[str, Any]


class Tracker(Protocol):
    """Hears of every row of metrics."""

    def log(self, row: Row) -> None:
        """Take one row."""
        ...

    def close(self) -> None:
        """Flush and let go."""
        ...


class Watcher(Protocol):
    """Hears how far the work in progress has come."""

    def phase(self, name: str, done: int, total: int) -> None:
        """``done`` of ``total`` parts of a named phase."""
        ...


class JsonLines:
    """Appends rows to a file; each line is whole or, after a crash, cut off by :func:`truncate`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def log(self, row: Row) -> None:
        """Hand one line to the operating system. Raises ``OSError`` naming the file."""
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        with writing(self._path):
            while line:
                line = line[self._file.write(line) :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Scalars for TensorBoard, below ``<run>/tensorboard``."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def log(self, row: Row) -> None:
        """Write every number of the row."""
        for name, value in scalars(row):
            self._writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class Wandb:
    """Scalars for Weights & Biases; needs the ``wandb`` package."""

    def __init__(self, folder: Path) -> None:
        import wandb

        self._run = wandb.init(project="turnwise", name=folder.name, dir=str(folder), resume="allow")

    def log(self, row: Row) -> None:
        """Log every number of the row."""
        self._run.log({f"{row['kind']}/{name}": value for name, value in scalars(row)}, step=row["step"])

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class Mlflow:
    """Scalars for MLflow; needs the ``mlflow`` package."""

    def __init__(self, folder: Path) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.start_run(run_name=folder.name)

    def log(self, row: Row) -> None:
        """Log every number of the row."""
        values = {f"{row['kind']}/{name}": value for name, value in scalars(row)}
        self._mlflow.log_metrics(values, step=row["step"])

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


TRACKERS = ("tensorboard", "wandb", "mlflow")
"""Each is named as the package it needs."""


def check_tracker(name: str) -> None:
    """Raises ``UsageError`` for a tracker that is unknown or whose package is missing."""
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    if find_spec(name) is None:
        raise UsageError(f"tracker {name!r} needs a package: pip install {name}")


def tracker(name: str, run: Path) -> Tracker:
    """The tracker of a name, opened. Raises what :func:`check_tracker` raises."""
    check_tracker(name)
    match name:
        case "tensorboard":
            return TensorBoard(run / "tensorboard")
        case "wandb":
            return Wandb(run)
        case _:
            return Mlflow(run)


class Trackers:
    """Several trackers as one."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def log(self, row: Row) -> None:
        """Hand the row to all."""
        for one in self._trackers:
            one.log(row)

    def close(self) -> None:
        """Close all."""
        for one in self._trackers:
            one.close()


def scalars(row: Row, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a row, nested names joined by ``/``."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name not in ("step", "kind"):
            yield f"{prefix}{name}", float(value)


def truncate(path: Path, step: int, round_: int) -> None:
    """Drop rows after a training step and a round of the warm start, and a torn last line: what a resumed
    run will write again, the evaluation before the first step included."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        again = row["kind"] == "final" or (row["kind"] == "eval" and step == 0)
        if row["step"] <= step and row.get("round", 0) <= round_ and not again:
            kept.append(line + "\n")
    scratch = path.with_suffix(".tmp")
    with writing(path):
        scratch.write_text("".join(kept), encoding="utf-8")
    scratch.replace(path)


def read_lines(path: Path) -> Iterator[Row]:
    """The rows of a file of JSON lines; nothing where it is absent. Only the last line may be torn:
    raises ``UsageError`` for another that is not JSON."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                if not line.endswith("\n"):
                    return
                raise UsageError(f"{path}: line {number} is not JSON: {error.msg}") from None
