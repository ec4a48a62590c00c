"""What a failure is told as: one line and an exit code, or None for a fault of ours, with its traceback.

Below the line stands what it quotes of a program's output, if anything.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import NamedTuple

import click

TRAIN_EXTRA = ("torch", "transformers", "tokenizers", "safetensors")
WRONG_PATH = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
"""What the user can put right by naming another path."""


class Explained(NamedTuple):
    """A failure as the user is told of it."""

    line: str
    code: int


def explain(error: BaseException) -> Explained | None:
    """The line and the exit code for an error; None where only a traceback helps."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, click.NoSuchOption):
        return Explained(_unknown_option(error), 2)
    if isinstance(error, click.ClickException):
        return Explained(told(error.format_message()), 2)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in TRAIN_EXTRA:
        return Explained(f"this needs {error.name}: pip install 'turnwise[train]'", 2)
    if isinstance(error, OSError) and error.strerror:
        place = f": {error.filename}" if error.filename else ""
        return Explained(f"{error.strerror}{place}", 2 if isinstance(error, WRONG_PATH) else 1)
    from turnwise.envs.errors import UsageError
    from turnwise.envs.session import EpisodeFailed
    from turnwise.sandbox.contract import SandboxError
    from turnwise.sandbox.images.errors import ImageError

    if isinstance(error, UsageError | ImageError):
        return Explained(told(str(error)), 2)
    if isinstance(error, SandboxError | EpisodeFailed):
        return Explained(told(str(error)), 1)
    return None


def _unknown_option(error: click.NoSuchOption) -> str:
    from turnwise.envs.errors import unknown

    context = error.ctx
    params = context.command.get_params(context) if context is not None else []
    names = [name for param in params if isinstance(param, click.Option) for name in param.opts]
    return str(unknown("option", error.option_name, names))


def told(message: str) -> str:
    """A message as a terminal may show it."""
    from turnwise.envs.errors import folded
    from turnwise.viewer.words import printable

    return printable(folded(message))


class _Lines(logging.Handler):
    """Warnings of the log as lines, written to wherever standard error goes at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"{record.levelname.lower()}: {told(record.getMessage())}", file=sys.stderr)


def install_warnings() -> None:
    """Show the package's warnings as lines on standard error, and keep others' progress bars off it."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logger = logging.getLogger("turnwise")
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines(logging.WARNING))
