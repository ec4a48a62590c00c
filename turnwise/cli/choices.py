"""What a user may choose from on the command line, checked before any work starts."""

from __future__ import annotations

import shlex


def check_backend(name: str | None) -> None:
    """Raises ``UsageError`` for a sandbox backend that does not exist."""
    from turnwise.envs.errors import unknown
    from turnwise.sandbox.backends import BACKENDS

    if name is not None and name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)


def command_line(*words: object) -> str:
    """A command that can be pasted into a shell."""
    return shlex.join(["turnwise", *map(str, words)])
