"""pip without build backends: ``python pip_alone.py download …``, a program of its own.

To learn the name and version of a source distribution, pip starts the build backend that it asks for, which
is code of the package's. Here the program that pip starts in its place is this one, which answers out of
PKG-INFO: an archive is fetched, and nothing that is in it runs.
"""

from __future__ import annotations

import json
import os
import runpy
import shlex
import sys
import tempfile
from email.parser import BytesHeaderParser
from pathlib import Path

HOOK = "TURNWISE_PIP_HOOK"
ANSWERS = ("get_requires_for_build_wheel", "prepare_metadata_for_build_wheel")


def main() -> None:
    """Run pip with the arguments given, or answer one call of its, as ``pyproject_hooks`` makes them."""
    if HOOK in os.environ:
        answer(sys.argv[2], Path(sys.argv[3]))
        return
    with tempfile.TemporaryDirectory(prefix="turnwise-pip-") as folder:
        program = Path(folder, "python")
        line = shlex.join([sys.executable, "-I", "-B", __file__])
        program.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        program.chmod(0o700)
        os.environ[HOOK] = "1"
        sys.executable = str(program)
        runpy.run_module("pip", run_name="__main__", alter_sys=True)


def answer(hook: str, control: Path) -> None:
    """One call: its input and its output are files."""
    given = json.loads((control / "input.json").read_text())["kwargs"]
    told = {"return_val": _answer(hook, given)} if hook in ANSWERS else {"hook_missing": True}
    (control / "output.json").write_text(json.dumps(told))


def _answer(hook: str, given: dict[str, str]) -> object:
    if hook == "get_requires_for_build_wheel":
        return []
    data = Path("PKG-INFO").read_bytes()  # pip is in the unpacked archive
    fields = BytesHeaderParser().parsebytes(data)
    name = f"{fields['Name'].replace('-', '_')}-{fields['Version']}.dist-info"
    place = Path(given["metadata_directory"], name)
    place.mkdir()
    (place / "METADATA").write_bytes(data)
    (place / "WHEEL").write_text("Wheel-Version: 1.0\nTag: py3-none-any\n")
    return name


if __name__ == "__main__":
    main()
