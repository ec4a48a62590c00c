"""Counts over time and over several workers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from turnwise.envs.serving.counters import KEPT_ERRORS, Counters
from turnwise.envs.serving.faults import Code, Refusal
from turnwise.envs.serving.losses import Losses
from turnwise.envs.serving.routing import Replica
from turnwise.envs.serving.siblings import Siblings
from turnwise.envs.serving.status import BOUNDS, Report, SandboxCounts, whole
from turnwise.envs.types import EndReason


class Clock:
    """Says what it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def report(counters: Counters, worker: int = 0, sandboxes: SandboxCounts | None = None) -> Report:
    """What a worker without sessions says."""
    return Report(
        worker=worker,
        uptime=counters.clock() - counters.started,
        seconds=counters.rate.seconds,
        draining=False,
        places=8,
        waiting=counters.waiting,
        connections=1,
        sessions=(),
        lost=worker,
        envs=tuple(env.counts() for env in counters.envs.values()),
        requests=tuple((kind, code, count) for (kind, code), count in counters.requests.items()),
        steps_by_second=counters.rate.by_second(),
        sandboxes=sandboxes,
        journal_bytes=None,
        errors=tuple(counters.errors),
    )


def test_rates_are_of_whole_seconds_and_of_no_more_than_there_were() -> None:
    clock = Clock()
    counters = Counters(clock)
    env = counters.env("e")
    for second in range(5):
        clock.now = 1000.5 + second
        for _ in range(second):
            env.stepped(0.001)
    rates = whole([report(counters)], []).rates
    assert rates.by_second[-5:] == (0, 0, 1, 2, 3), "the second that is going on does not count"
    assert (rates.last_10_s, rates.last_60_s) == (6 / 4, 6 / 4)
    clock.now += 30
    rates = whole([report(counters)], []).rates
    assert (rates.last_10_s, rates.last_60_s) == (0.0, 10 / 34)
    clock.now += 3600
    assert sum(whole([report(counters)], []).rates.by_second) == 0


def test_rates_count_the_second_in_which_the_server_started() -> None:
    clock = Clock()
    clock.now = 1000.9
    counters = Counters(clock)
    env = counters.env("e")
    env.stepped(0.001)
    for now, rate in ((1000.95, 0.0), (1001.0, 1.0), (1003.2, 1 / 3), (1009.9, 1 / 9), (1011.0, 0.0)):
        clock.now = now
        assert whole([report(counters)], []).rates.last_10_s == rate
    assert whole([report(counters)], []).rates.last_60_s == 1 / 11


def test_a_step_is_counted_in_the_bucket_that_holds_its_time() -> None:
    env = Counters().env("e")
    for seconds in (0.0, BOUNDS[0], 0.002, 1e9):
        env.stepped(seconds)
    counts = env.counts()
    assert (counts.step_seconds.buckets[:2], counts.step_seconds.buckets[-1]) == ((2, 1), 1)
    assert counts.steps == sum(counts.step_seconds.buckets) == 4


def test_errors_are_bounded_in_number_and_length() -> None:
    counters = Counters()
    for number in range(3 * KEPT_ERRORS):
        counters.failed(
            "infra_error", EndReason.INFRA_ERROR, f"{number} " + "x" * 9999, None, counters.env("e")
        )
    assert len(counters.errors) == KEPT_ERRORS
    assert max(len(line.message) for line in counters.errors) < 1000
    assert counters.env("e").infra_failures == 3 * KEPT_ERRORS


async def test_whichever_worker_is_asked_answers_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwise.envs.serving.siblings.ANSWER_SECONDS", 60.0)
    clock = Clock()
    one, two = Counters(clock), Counters(clock)
    one.env("e").stepped(0.5)
    two.env("e").stepped(0.25)
    two.env("f").opened += 1
    for counters in (one, two):
        counters.refused("step", Refusal(Code.BUSY, "full").fault)
    clock.now += 1
    boxes = SandboxCounts(in_use=1, idle=2, created=3, recycled=4, died=5)
    async with (
        asyncio.timeout(120),
        Siblings(Replica().place(0, 2, tmp_path), lambda: report(one, 0, boxes), has_none) as first,
        Siblings(Replica().place(1, 2, tmp_path), lambda: report(two, 1, boxes), has_none) as second,
    ):
        told, down = await first.reports()
        assert (told, down) == await second.reports()
    status = whole(told, down)
    assert (status.places, status.connections, status.faults) == (16, 2, {"busy": 2})
    assert [(counts.env, counts.steps, counts.opened) for counts in status.envs] == [("e", 2, 0), ("f", 0, 1)]
    assert status.envs[0].step_seconds.sum == 0.75
    assert status.lost == 1
    assert status.rates.by_second[-1] == 2
    assert status.sandboxes == SandboxCounts(in_use=2, idle=4, created=6, recycled=8, died=10)


def test_what_was_open_when_a_worker_died_is_lost_to_its_successors(tmp_path: Path) -> None:
    for lost, opened in ((0, ()), (0, (1, 2, 3)), (3, ()), (3, (1, 2, 1))):
        losses = Losses()
        with losses.kept_in(tmp_path / "0.sessions"):
            assert losses.lost == lost
            for count in opened:
                losses.now_open(count)
    with losses.kept_in(tmp_path / "0.sessions"):
        assert losses.lost == 4
    losses.now_open(5)  # nowhere, once it is kept no more
    with Losses().kept_in(tmp_path / "0.sessions"), Losses().kept_in(tmp_path / "1.sessions"):
        assert losses.lost == 0


async def has_none(session: str) -> bool:
    return False


async def test_a_worker_that_died_is_down_and_one_that_says_nonsense_too(tmp_path: Path) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"{}")
        writer.close()

    def worker(index: int) -> Siblings:
        return Siblings(Replica().place(index, 3, tmp_path), lambda: report(Counters(), index), has_none)

    async with asyncio.timeout(120), worker(0) as alone:
        async with worker(1):
            pass
        (tmp_path / "1.sock").touch()  # as the socket of one that was killed remains
        async with await asyncio.start_unix_server(nonsense, tmp_path / "2.sock"):
            told, down = await alone.reports()
    assert ([one.worker for one in told], down) == ([0], [1, 2])
    status = whole(told, down)
    assert (status.state, status.workers) == ("degraded", {"0": "up", "1": "down", "2": "down"})
