"""Processes as others see them: which there are below one, and whether they have ended."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

Process: TypeAlias = tuple[int, int]
"""Its id and when it started: an id alone may be another's by the time it is looked at again."""


def children(pid: int) -> set[Process]:
    """The processes that one has started, but for those that end meanwhile."""
    found: set[Process] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                    found |= {(int(child), seen[1])} if (seen := _look(int(child))) else set()
    return found


def offspring(pid: int) -> set[Process]:
    """The processes below one."""
    own = children(pid)
    return own.union(*(offspring(child) for child, _ in own))


def running(processes: Iterable[Process]) -> set[Process]:
    """Those of them that have not ended; one whose end nobody has asked for yet has ended too."""
    found = {(pid, started, _look(pid)) for pid, started in processes}
    return {(pid, started) for pid, started, seen in found if seen and seen[0] != "Z" and seen[1] == started}


def until_ended(processes: Iterable[Process]) -> None:
    """Wait until none of them is running. What others killed needs its time on a busy machine."""
    until = time.monotonic() + 120
    while left := running(processes):
        assert time.monotonic() < until, f"still running: {left}"
        time.sleep(0.02)


def _look(pid: int) -> tuple[str, int] | None:
    """The state of a process and when it started; None where there is none."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends between opening and reading
        return None
    return state, int(fields[18])
