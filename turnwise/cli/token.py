"""The token that a command takes from ``TURNWISE_TOKEN``."""

from __future__ import annotations

import os

VARIABLE = "TURNWISE_TOKEN"


def check_environment(token: str | None) -> None:
    """Raises ``UsageError`` where no token was given and the variable is set to nothing: whoever set it meant
    to protect what would be open to all."""
    from turnwise.envs.errors import UsageError

    if token is None and os.environ.get(VARIABLE) == "":
        raise UsageError(f"{VARIABLE} is empty: put a token into it, or unset it to do without")
