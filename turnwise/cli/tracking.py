"""Trackers named on the command line, opened when the run's folder is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from turnwise.trainer.tracker import Row, Tracker, check_tracker, tracker


class Later:
    """A tracker that is opened with its first row: before that, the run's folder must stay empty."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self._opened: Tracker | None = None

    def log(self, row: Row) -> None:
        """Hand the row on."""
        if self._opened is None:
            self._opened = tracker(self.name, self.folder)
        self._opened.log(row)

    def close(self) -> None:
        """Close what was opened."""
        if self._opened is not None:
            self._opened.close()


def open_later(names: Sequence[str], folder: Path) -> list[Later]:
    """Trackers by name. Raises ``UsageError`` for an unknown one, and one whose package is missing."""
    for name in names:
        check_tracker(name)
    return [Later(name, folder) for name in names]
