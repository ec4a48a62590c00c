"""What a server counts: plain numbers, added to where something happens and read when somebody asks.

Counting costs a step well under a microsecond: what belongs to an environment is bound to its sessions
when they are opened, and nothing is formatted before it is asked for.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from turnwise.envs.serving.faults import Code, Fault
from turnwise.envs.serving.status import BOUNDS, EnvCounts, ErrorLine, StepSeconds
from turnwise.envs.types import EndReason

logger = logging.getLogger(__name__)

HISTORY = 60
"""Seconds for which the steps of each are known."""
KEPT_ERRORS = 50
MAX_MESSAGE = 500
SERIOUS = (Code.DEADLINE, Code.EPISODE_FAILED, Code.SANDBOX, Code.JOURNAL, Code.INTERNAL)
"""Faults that are not the caller's; the last of them are kept."""
OK = "ok"
"""Stands for the code of a request that met no fault."""


@dataclass(slots=True)
class EnvCounters:
    """The counts of one environment."""

    name: str
    rate: Rate
    opened: int = 0
    closed: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    infra_failures: int = 0

    def stepped(self, seconds: float) -> None:
        """A turn took so long."""
        self.steps += 1
        self.seconds += seconds
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.rate.add()

    def counts(self) -> EnvCounts:
        """As they are now."""
        return EnvCounts(
            env=self.name,
            opened=self.opened,
            closed=dict(self.closed),
            steps=self.steps,
            step_seconds=StepSeconds(buckets=tuple(self.buckets), sum=self.seconds),
            infra_failures=self.infra_failures,
        )


class Rate:
    """How many of something there were in each of the last seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first = self._second = int(clock())
        self._counts: deque[int] = deque([0] * (HISTORY + 1), HISTORY + 1)

    def add(self) -> None:
        """One more, now."""
        if (second := int(self._clock())) != self._second:
            self._move_on(second)
        self._counts[-1] += 1

    @property
    def seconds(self) -> int:
        """Whole seconds so far, the first included however much of it there was."""
        return int(self._clock()) - self._first

    def by_second(self) -> tuple[int, ...]:
        """Those of the last :data:`HISTORY` whole seconds, oldest first."""
        self._move_on(int(self._clock()))
        return tuple(self._counts)[:-1]

    def _move_on(self, second: int) -> None:
        self._counts.extend([0] * min(second - self._second, HISTORY + 1))
        self._second = second


class Counters:
    """All counts of one server process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.started = clock()
        self.rate = Rate(clock)
        """Of steps."""
        self.waiting = 0
        """Who waits for a place."""
        self.requests: Counter[tuple[str, str]] = Counter()
        """By type and code."""
        self.envs: dict[str, EnvCounters] = {}
        self.errors: deque[ErrorLine] = deque(maxlen=KEPT_ERRORS)

    def env(self, name: str) -> EnvCounters:
        """The counts of an environment."""
        if name not in self.envs:
            self.envs[name] = EnvCounters(name, self.rate)
        return self.envs[name]

    @contextmanager
    def queued(self) -> Iterator[None]:
        """Somebody waits for a place."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def answered(self, kind: str, code: str = OK) -> None:
        """A request of a type was carried out, or met something that is not a fault of ours to name."""
        self.requests[kind, code] += 1

    def refused(
        self, kind: str, fault: Fault, session: str | None = None, env: EnvCounters | None = None
    ) -> None:
        """A request of a type met a fault."""
        self.requests[kind, fault.code] += 1
        if fault.code in SERIOUS:
            end = EndReason.INFRA_ERROR if fault.code is Code.SANDBOX else fault.end
            self.failed(fault.code, end, fault.message, session, env)

    def failed(
        self, code: str, end: EndReason | None, message: str, session: str | None, env: EnvCounters | None
    ) -> None:
        """Something failed that was not the caller's doing; keep it for whoever looks. What an environment's
        own code raised may quote a task's secrets: of that the kind alone is kept."""
        if env is not None:
            env.infra_failures += end is EndReason.INFRA_ERROR
        said = message.partition(":")[0] if end is EndReason.ENV_ERROR else message
        logger.warning("%s: %s", code, said)
        name = None if env is None else env.name
        self.errors.append(
            ErrorLine(time=time.time(), code=code, message=said[:MAX_MESSAGE], session=session, env=name)
        )
