"""What the judge adds to pytest: a worker for each test, fresh randomness, and reports to the owner.

A test may ask for ``fresh_rng``, a random generator that is new at every grading; such a test runs once
with each seed. ``expected(lambda: …)`` builds an expectation with the package where it can tell nothing to
the code under test, and in a test marked ``copyback`` the package may change its arguments.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Protocol

import pytest

from turnwise.envs.swe.grading.judge.link import Violation
from turnwise.envs.swe.grading.judge.session import Session


class Owner(Protocol):
    """The line to the owner."""

    violated: bool

    def say(self, **message: Any) -> None: ...

    def note(self, violation: str) -> None: ...


class Recorder:
    """A plugin object of one run. ``want`` has so many workers made ready."""

    def __init__(
        self, session: Session, want: Callable[[int], None], owner: Owner, orders: dict[str, Any]
    ) -> None:
        self._session, self._want, self._owner, self._say = session, want, owner, owner.say
        self._seeds: dict[str, int] = orders["seeds"]
        self._wanted: frozenset[str] | None = None if orders["ids"] is None else frozenset(orders["ids"])
        self._ahead: int = orders["ahead"]
        self._seconds: float = orders["bounds"]["test_seconds"]
        self._left = 0

    # ------------------------------------------------------------ collection
    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", "copyback: the package under test may change arguments")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "fresh_rng" in metafunc.fixturenames:
            metafunc.parametrize("fresh_rng", list(self._seeds), indirect=True)

    @pytest.fixture
    def fresh_rng(self, request: pytest.FixtureRequest) -> random.Random:
        """A random generator that no submission can foresee."""
        return random.Random(f"{self._seeds[request.param]} {request.node.nodeid}")

    @pytest.fixture
    def expected(self) -> Callable[[Callable[[], Any]], Any]:
        """Builds an expectation with the package, in a worker of its own."""
        return self._session.expected

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        seeded = [item.nodeid for item in items if "fresh_rng" in getattr(item, "fixturenames", ())]
        self._say(collected=[item.nodeid for item in items], seeded=seeded)
        if self._wanted is not None:
            items[:] = [item for item in items if item.nodeid in self._wanted]
        self._left = len(items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome != "passed":
            self._say(uncollected=report.nodeid, detail=_detail(report))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._let_go(session)

    # ------------------------------------------------------------ running
    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._session.copyback = item.get_closest_marker("copyback") is not None
        self._want(min(self._ahead, self._left))
        self._left -= 1
        try:
            return (yield)
        finally:
            self._let_go(item.session)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Iterator[None]:
        with self._in_time():
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        with self._in_time():
            return (yield)

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """A test that computes for ever with what it was answered is ended."""

        def stop(number: int, frame: FrameType | None) -> None:
            self._owner.note("a test did not end in time")
            raise Violation("a test did not end in time")

        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _let_go(self, session: pytest.Session) -> None:
        """End the workers; a violation, now or before, ends the grading."""
        with suppress(Violation):  # it is noted
            self._session.end()
        if self._owner.violated:
            session.shouldstop = "a worker broke the protocol"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        expected_to_fail = hasattr(report, "wasxfail")
        outcome = "xfail" if expected_to_fail else report.outcome
        self._say(test=report.nodeid, phase=report.when, outcome=outcome, detail=_detail(report))


def run(arguments: Sequence[str], recorder: Recorder) -> None:
    pytest.main(list(arguments), plugins=[recorder])


def _detail(report: Any) -> str:
    """What went wrong, in a few lines, for the trainer's side."""
    return "" if report.outcome == "passed" else str(report.longreprtext)[-2000:]
