"""What dynamically linked programs load, as ``ldd`` says it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

_DEADLINE = 60.0


def linked(programs: Iterable[str | Path]) -> tuple[set[Path], set[Path]]:
    """The loaders of programs and their extension modules, and the libraries that they need.

    Raises ``OSError`` where there is no ``ldd`` to ask.
    """
    command = ["ldd", *map(str, programs)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DEADLINE)
    loaders, needed = set(), set()
    for line in result.stdout.splitlines():
        words = line.split()
        if "=>" in words and words[2].startswith("/"):
            needed.add(Path(words[2]))
        elif words and words[0].startswith("/") and words[-1].startswith("("):
            loaders.add(Path(words[0]))
    return loaders, needed
