"""The persistent shell: the loop it runs, the scripts it is sent, and what of it a snapshot keeps."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

LOOP = """__status=0
__last() { return $__status; }
while IFS= read -r __line <&3; do
  __script=$(printf %b "$__line"); __last
  command eval "$__script" 3<&- 4>&-
  __status=$?
  { printf '%s\\0' "$PWD"; export -p; } >|STATE
  echo $__status >&4
done
"""
"""For any POSIX shell. Each line read is one script; after each it notes its directory and exported
variables and answers the status. ``__last`` lets ``$?`` show the status of the script before, and
``command`` keeps a syntax error from ending the shell."""


def program(state: Path, beginning: str) -> list[str]:
    """The command line of a shell that notes its state in a file."""
    name = "bash" if shutil.which("bash") else "sh"
    return [name, "-c", beginning + LOOP.replace("STATE", shlex.quote(str(state)))]


def line(script: str) -> bytes:
    """A script as one line for the loop: its backslashes and line ends in octal."""
    return os.fsencode(script.replace("\\", "\\0134").replace("\n", "\\0012")) + b"\n"


def resume(state: Path, old: Path, new: Path) -> str:
    """The script that brings a new shell to a noted state, after the tree at ``old`` came to ``new``."""
    if not state.exists():
        return ""
    noted = os.fsdecode(state.read_bytes()).replace(str(old), str(new))
    state.write_bytes(os.fsencode(noted))
    directory, _, exports = noted.partition("\0")
    return f"{exports}\ncd {shlex.quote(directory)} 2>/dev/null\n"
