"""Commands that the user may paste into a shell."""

from __future__ import annotations

import shlex


def command_line(*words: object) -> str:
    """A ``turnwise`` command, quoted as a shell needs it."""
    return shlex.join(["turnwise", *map(str, words)])
