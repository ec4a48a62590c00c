"""A run's state on disk, whole or not at all.

A checkpoint is written beside the last one, synced, and renamed into place; ``latest`` then names it.
Every random stream of a run is derived from its seed, the step and an episode's name, so the seed and
the step *are* the streams, and the task cursor is a number. What is left is the model, the optimiser,
the scorers and the states of the credit stages.

The checkpoint that reinforcement began from stays for good: scorers start from its model.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from turnwise.trainer.scorers.scorer import Scorer, save_scorers

logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of every save, over our own

KEEP = 2
"""How many checkpoints stay beside the first: the newest, and one before it."""
FIRST = f"{0:06d}"
"""The checkpoint that reinforcement began from."""


@dataclass(slots=True)
class Progress:
    """How far a run has come; everything of its state that is not a tensor."""

    phase: str = "warm_start"
    """``warm_start`` or ``train``."""
    round: int = 0
    """Rounds of the warm start done."""
    step: int = 0
    """Training steps done."""
    gauge: float = 0.0
    """What the warm start's last look at its gate measured."""
    satisfied: bool = False
    """An evaluation reached ``evaluate.stop_at``."""
    episodes: int = 0
    """Episodes seen in training, the demonstrations apart."""
    cursor: int = 0
    """Tasks drawn."""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    stages: dict[str, Any] = field(default_factory=dict)
    """State of every credit stage that has one, by name."""
    watch: dict[str, Any] = field(default_factory=dict)
    """State of the guards."""


def save(
    run: Path,
    progress: Progress,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    scorers: Mapping[str, Scorer] | None = None,
) -> Path:
    """Write a checkpoint and make it the latest.

    Raises ``OSError`` naming it where it cannot be written; the last one then still stands.
    """
    root = run / "checkpoints"
    root.mkdir(exist_ok=True)
    name = f"{progress.step:06d}" if progress.phase != "warm_start" else f"warm-{progress.round:04d}"
    scratch, final = root / f".{name}.tmp", root / name
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with _writing(final):
            model.save_pretrained(scratch / "model")
            tokenizer.save_pretrained(scratch / "model")
            with (scratch / "optimizer.pt").open("wb") as file:
                torch.save(optimizer.state_dict(), file)
            save_scorers(scorers or {}, scratch)
            (scratch / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
            for path in (*scratch.rglob("*"), scratch):
                _sync(path)
            shutil.rmtree(final, ignore_errors=True)
            scratch.rename(final)
            pointer = root / ".latest.tmp"
            pointer.write_text(name, encoding="utf-8")
            _sync(pointer)
            pointer.replace(root / "latest")
            _sync(root)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _prune(root, name)
    return final


def latest(run: Path) -> Path | None:
    """The newest whole checkpoint; None where there is none yet."""
    pointer = run / "checkpoints" / "latest"
    return run / "checkpoints" / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else None


def first(run: Path) -> Path:
    """The checkpoint that reinforcement began from; it is there from the end of the warm start on."""
    return run / "checkpoints" / FIRST


def load_progress(folder: Path) -> Progress:
    """What :func:`save` wrote of a run's progress."""
    return Progress(**json.loads((folder / "progress.json").read_text(encoding="utf-8")))


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Put the saved state into an optimiser of the same parameters."""
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))


def _prune(root: Path, newest: str) -> None:
    others = sorted(
        (p for p in root.iterdir() if p.is_dir() and p.name not in (newest, FIRST)),
        key=lambda p: p.stat().st_mtime,
    )
    for old in others[: max(0, len(others) - (KEEP - 1))]:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Failures to write, whatever the libraries make of them, as an ``OSError`` that names the checkpoint."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        number = int(code[1]) if code else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
    except RuntimeError as error:
        cause = error.__context__  # torch's writer fails once more as it closes
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
