"""Which environments a server can offer."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from turnwise.envs.errors import UsageError
from turnwise.envs.registry import EnvSpec
from turnwise.envs.types import SPLITS

logger = logging.getLogger(__name__)


def offered(envs: Sequence[str | EnvSpec], backend: str | None) -> list[EnvSpec]:
    """Those that are named. Raises ``UsageError`` for one that no session could play, and for none."""
    specs = [EnvSpec.parse(env) for env in envs]
    if not specs:
        raise UsageError("name at least one environment to serve")
    for spec in specs:
        env = spec.make()
        try:
            env.task_set(SPLITS[0])
        except UsageError:
            raise
        except Exception:  # its own fault, which is told to who opens a session
            logger.warning("The tasks of %s cannot be listed", spec, exc_info=True)
        if backend == "process" and env.needs_isolation:
            raise UsageError(
                f"{spec}: its tasks refuse backend 'process', which isolates nothing; use another"
            )
    return specs
