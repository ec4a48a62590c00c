"""What a server says of how it is doing: each worker's report, and the status made of them all.

A report is what one worker process tells the others; it holds every count there is, so that whichever
worker is asked answers for the whole server. Nothing in it is a secret: no token, no lease, nothing of a
task but its environment's name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Literal

from pydantic import Field

from turnwise.envs.serving.listing import SessionLine
from turnwise.envs.types import Model

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds, in seconds, of the buckets that the times of steps are counted in."""


class StepSeconds(Model):
    """How long steps took."""

    buckets: tuple[int, ...]
    """For each of :data:`BOUNDS` the steps within it and beyond the one before; last those beyond all."""
    sum: float


class EnvCounts(Model):
    """What happened in one environment."""

    env: str
    opened: int
    closed: dict[str, int]
    """Sessions by how their episode ended; ``none`` where it had not."""
    steps: int
    step_seconds: StepSeconds
    infra_failures: int
    """Failures of the machine: they end episodes, and score nothing."""


class ErrorLine(Model):
    """A failure that was not the caller's."""

    time: float
    """Seconds since 1970."""
    code: str
    """A fault's code or an episode's end."""
    message: str
    session: str | None
    env: str | None


class SandboxCounts(Model):
    """The sandboxes of the pools, now (``in_use``, ``idle``) and since they were opened (the others)."""

    in_use: int
    idle: int
    created: int
    recycled: int
    died: int


class Report(Model):
    """How one worker is doing."""

    worker: int
    uptime: float
    seconds: int
    """Whole seconds of the clock since it started, that in which it did included."""
    draining: bool
    places: int
    """Sessions that it may have open."""
    waiting: int
    """Who waits for a place."""
    connections: int
    """Open WebSockets."""
    sessions: tuple[SessionLine, ...]
    lost: int
    """Sessions that died with the workers before this one."""
    envs: tuple[EnvCounts, ...]
    requests: tuple[tuple[str, str, int], ...]
    """How many of a type were answered with a fault's code, or ``ok``."""
    steps_by_second: tuple[int, ...]
    """In each of the last seconds, oldest first."""
    sandboxes: SandboxCounts | None
    """None before the first one was needed."""
    journal_bytes: int | None
    """Written since the start; None without a journal."""
    errors: tuple[ErrorLine, ...]


class Rates(Model):
    """Steps per second."""

    last_10_s: float
    last_60_s: float
    by_second: tuple[int, ...]
    """Steps in each of the last seconds, oldest first."""


class Status(Model):
    """How a server is doing, all workers together."""

    version: str
    state: Literal["healthy", "degraded", "draining"]
    """Degraded while a worker does not answer."""
    uptime: float
    """Seconds."""
    workers: dict[str, Literal["up", "down"]]
    """By their numbers; those that are down did not answer."""
    places: int
    waiting: int
    """Who waits for a place."""
    connections: int
    sessions: tuple[SessionLine, ...]
    lost: int
    """Sessions that died with a worker."""
    envs: tuple[EnvCounts, ...]
    rates: Rates
    faults: dict[str, int] = Field(description="Requests by the code of the fault they met")
    sandboxes: SandboxCounts | None
    journal_bytes: int | None
    errors: tuple[ErrorLine, ...] = Field(
        description="The last failures that were not a caller's, newest first"
    )


def whole(reports: Sequence[Report], down: Sequence[int]) -> Status:
    """The status of the server whose workers reported, but for those that are ``down``."""
    seconds = max(report.seconds for report in reports)
    steps = [sum(second) for second in zip(*(report.steps_by_second for report in reports), strict=True)]
    faults: Counter[str] = Counter()
    for report in reports:
        for _, code, count in report.requests:
            faults[code] += count
    faults.pop("ok", None)
    journals = [report.journal_bytes for report in reports if report.journal_bytes is not None]
    errors = sorted((line for report in reports for line in report.errors), key=lambda line: -line.time)
    return Status(
        version=version("turnwise"),
        state="draining" if any(report.draining for report in reports) else "degraded" if down else "healthy",
        uptime=max(report.uptime for report in reports),
        workers={
            **{str(report.worker): "up" for report in reports},
            **{str(worker): "down" for worker in down},
        },
        places=sum(report.places for report in reports),
        waiting=sum(report.waiting for report in reports),
        connections=sum(report.connections for report in reports),
        sessions=tuple(line for report in reports for line in report.sessions),
        lost=sum(report.lost for report in reports),
        envs=_by_env([counts for report in reports for counts in report.envs]),
        rates=Rates(
            last_10_s=_rate(steps, 10, seconds), last_60_s=_rate(steps, 60, seconds), by_second=tuple(steps)
        ),
        faults=dict(faults),
        sandboxes=added_up([report.sandboxes for report in reports if report.sandboxes is not None]),
        journal_bytes=sum(journals) if journals else None,
        errors=tuple(errors),
    )


def _rate(steps: Sequence[int], last: int, seconds: int) -> float:
    """Steps per second over the last so many, or over all there were where that is less."""
    over = max(1, min(last, seconds))
    return sum(steps[-over:]) / over


def _by_env(counts: Sequence[EnvCounts]) -> tuple[EnvCounts, ...]:
    """One of each environment."""
    by_env: dict[str, list[EnvCounts]] = {}
    for one in counts:
        by_env.setdefault(one.env, []).append(one)
    return tuple(
        EnvCounts(
            env=env,
            opened=sum(one.opened for one in same),
            closed=dict(sum((Counter(one.closed) for one in same), Counter())),
            steps=sum(one.steps for one in same),
            step_seconds=StepSeconds(
                buckets=tuple(map(sum, zip(*(one.step_seconds.buckets for one in same), strict=True))),
                sum=sum(one.step_seconds.sum for one in same),
            ),
            infra_failures=sum(one.infra_failures for one in same),
        )
        for env, same in sorted(by_env.items())
    )


def added_up(counts: Sequence[SandboxCounts]) -> SandboxCounts | None:
    """The sandboxes of all pools; None where there is no pool."""
    if not counts:
        return None
    return SandboxCounts(
        **{name: sum(getattr(one, name) for one in counts) for name in SandboxCounts.model_fields}
    )
