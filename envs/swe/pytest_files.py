"""The owner's pytest and what it needs, as files to put into a sandbox that has none.

All of it is pure Python. Of Pygments only what pytest imports is taken: its lexers for some hundred
languages would be most of every snapshot.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pathlib import PurePosixPath

from turnwise.envs.errors import UsageError
from turnwise.sandbox.contract import TOOLING

SITE = f"{TOOLING}/site"
DISTRIBUTIONS = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
OLDEST_PYTHON = (3, 11)
"""The oldest Python that these run on without more packages."""
COMPILE = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash")
"""What an interpreter is told before the folder, so that no run of the tests begins by compiling it."""
_LEFT_OUT = ("pygments/lexers", "pygments/styles", "pygments/formatters")
_KEPT = {
    *("pygments/lexers/__init__.py", "pygments/lexers/_mapping.py"),
    *("pygments/lexers/python.py", "pygments/lexers/diff.py"),
    *("pygments/styles/__init__.py", "pygments/styles/_mapping.py"),
    *("pygments/formatters/__init__.py", "pygments/formatters/_mapping.py"),
    "pygments/formatters/terminal.py",
}


@cache
def pytest_files() -> dict[str, bytes]:
    """The files by their path in the sandbox. Raises ``UsageError`` where there is no pytest."""
    found = {}
    try:
        for name in DISTRIBUTIONS:
            for file in metadata.files(name) or ():
                if _wanted(file):
                    found[f"{SITE}/{file}"] = file.read_binary()
    except metadata.PackageNotFoundError as error:
        raise UsageError(
            f"software repair needs {error.name}: install the extra, as in pip install 'turnwise[swe]'"
        ) from None
    return found


def _wanted(file: PurePosixPath) -> bool:
    path = str(file)
    needed = path in _KEPT or not path.startswith(_LEFT_OUT)
    return file.suffix == ".py" and ".." not in file.parts and needed
