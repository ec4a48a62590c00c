"""An image of this machine's Python with published distributions in it.

pip finds out which they are and fetches them, for the interpreter that the image has, with the indexes and
credentials that its user has set up. They come as wheels alone: to install a wheel runs nothing of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from turnwise.sandbox.images.errors import ImageError
from turnwise.sandbox.images.host import Host, python

FOLDER = "/opt/python"
"""Where they are in the image, and where its interpreter looks for modules last."""
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,-]+\])?([<>=!~]=?=?[A-Za-z0-9.*+!_-]+,?)*"
)
_DEADLINE = 900.0
_ASK = "import site; print(site.getsitepackages()[0])"
_PIP = ("--disable-pip-version-check", "--no-input", "--quiet", "--only-binary", ":all:")


@dataclass(frozen=True, slots=True)
class Python:
    """sh, python3 and git of this machine, and distributions: requirements without spaces, as ``attrs>=23``.

    Raises :class:`ImageError` for what is no requirement.
    """

    requires: tuple[str, ...]

    def __post_init__(self) -> None:
        check_requirements(self.requires)
        if not self.requires:
            raise ImageError("images: --python: name at least one distribution")

    def fill(self, root: Path, scratch: Path) -> str:
        """Install them. Raises :class:`ImageError`."""
        said = Host().fill(root, scratch)
        pinned = resolved(self.requires)
        folder = libraries(root)
        _pip("install", "--no-deps", "--no-compile", "--target", str(folder), *pinned)
        place = root / _run(python(), "-I", "-c", _ASK).strip().lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        (place / "turnwise.pth").write_text(f"{FOLDER}\n")
        compile_all = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(root))
        subprocess.run(  # what is written for another version does not compile, and is never imported
            [python(), "-I", *compile_all, "-p", "/", str(folder)],
            stdout=subprocess.DEVNULL, timeout=_DEADLINE, check=False,
        )  # fmt: skip
        return f"{said} with {' '.join(pinned)}"


def libraries(root: Path) -> Path:
    """Where the distributions are, from outside an extracted root."""
    return root / FOLDER.lstrip("/")


def check_requirements(requires: Sequence[str]) -> None:
    """Raises :class:`ImageError` for what is no requirement of a name and versions."""
    for requirement in requires:
        if not _REQUIREMENT.fullmatch(requirement):
            raise ImageError(
                f"requirement {requirement!r}: write a name and versions without spaces, as attrs>=23,<27"
            )


def resolved(requires: Sequence[str]) -> tuple[str, ...]:
    """All that these need and they themselves, pinned, by name. Raises :class:`ImageError`."""
    check_requirements(requires)
    told = json.loads(_pip("install", "--dry-run", "--ignore-installed", "--report", "-", *requires))
    found = [(each["metadata"]["name"].lower(), each["metadata"]["version"]) for each in told["install"]]
    return tuple(f"{name}=={version}" for name, version in sorted(found))


def name_of(pinned: Sequence[str]) -> str:
    """What the image of these distributions is called, unless somebody says otherwise."""
    return f"python-{hashlib.sha256(' '.join(sorted(pinned)).encode()).hexdigest()[:16]}"


def python_version() -> str:
    """The version of the interpreter that images have."""
    return _run(python(), "-I", "-c", "import platform; print(platform.python_version())").strip()


def _pip(command: str, *arguments: str) -> str:
    return _run(sys.executable, "-m", "pip", "--python", python(), command, *_PIP, *arguments)


def _run(*command: str) -> str:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=_DEADLINE, env=environment,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"images: {command[0]} failed: {error}") from error
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "ERROR" in line or "No module" in line]
        raise ImageError(f"images: pip cannot install them: {lines[-1].strip() if lines else result.stderr}")
    return result.stdout
