"""The bound on what a session's environment holds in this process: one that holds more is ended.

A look costs next to nothing: it asks how much memory the process has. Only where that has grown by a good
part of the bound since the sessions were last weighed, or where they have gone on for long without, are they
weighed anew (:mod:`turnwise.envs.serving.weighing`). So nobody gets far beyond the bound unseen, except in
memory that the process had already, and by one call that takes a lot between two looks.

Sessions go on while they are weighed. What they take meanwhile the process has grown by at the next look; and
since what is loaded for all in the middle of a weighing looks like somebody's own, all are weighed once more
before one is ended.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from turnwise.envs.serving.faults import Code, Refusal
from turnwise.envs.serving.roster import Roster
from turnwise.envs.serving.served_session import ServedSession
from turnwise.envs.serving.weighing import weigh
from turnwise.envs.types import EndReason
from turnwise.sandbox.contract import MiB

LOOK_SECONDS = 1.0
"""Between two looks, at least; after a weighing as long as that took."""
WEIGH_SECONDS = 60.0
"""How long sessions go on before they are weighed, however much memory the process has."""
PART = 8
"""Which part of the bound the process may grow by before they are."""
ENOUGH = 2
"""How many times the bound are counted of one session."""
STATM = Path("/proc/self/statm")


class MemoryBound:
    """Holds the sessions of a roster to a bound in bytes; ``shared`` is what leads to all that is the
    server's own."""

    def __init__(self, roster: Roster, shared: object, bound: int) -> None:
        self._roster, self._shared, self._bound = roster, shared, bound
        self._resident = resident()
        """The least the process had since the last weighing began."""
        self._weighed = time.monotonic()

    async def keep(self) -> None:
        """Look again and again."""
        pause = LOOK_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = max(LOOK_SECONDS, await self.look())

    async def look(self) -> float:
        """Weigh the sessions if it is time; the seconds that took."""
        now, size, sessions = time.monotonic(), resident(), self._roster.held
        self._resident = min(self._resident, size)
        grown = size - self._resident >= self._bound / PART
        late = now - self._weighed >= WEIGH_SECONDS
        if (grown and sessions) or (late and any(held.used_since(self._weighed) for held in sessions)):
            await self.weigh()
        return time.monotonic() - now

    async def weigh(self) -> None:
        """Weigh the sessions now, and end those that hold too much."""
        self._weighed, size, sessions = time.monotonic(), resident(), self._roster.held
        weights = await self._weights(sessions)
        if any(weight > self._bound for weight in weights):
            weights = list(map(min, weights, await self._weights(sessions)))
        self._resident = size
        for held, weight in zip(sessions, weights, strict=True):
            held.memory = weight
            if weight > self._bound:
                self._roster.expel(held, self._reason(weight))

    async def _weights(self, sessions: Sequence[ServedSession]) -> list[int]:
        return await weigh([held.session for held in sessions], [self._shared], ENOUGH * self._bound)

    def _reason(self, weight: int) -> Refusal:
        bound = f"its bound of {self._bound / MiB:,.1f} MiB"
        said = (
            f"the session's environment holds at least {weight / MiB:,.1f} MiB of memory, more than {bound}"
        )
        return Refusal(Code.MEMORY, said, end=EndReason.INFRA_ERROR)


def resident() -> int:
    """Bytes of memory that this process has; without a /proc, the most it ever had."""
    try:
        return int(STATM.read_text().split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
