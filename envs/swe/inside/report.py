"""A pytest plugin that writes a line per test to the file ``$TURNWISE_REPORT``, if there is one.

A test passed when its setup, its call and its teardown did; one that was expected to fail and did, passed
too, as the ``swebench`` package counts it.
"""

import json
import os
from typing import Any

_worst: dict[str, str] = {}
_ORDER = ["passed", "skipped", "failed"]


def pytest_runtest_logreport(report: Any) -> None:
    outcome = report.outcome
    if outcome == "skipped" and getattr(report, "wasxfail", None) is not None:
        outcome = "passed"
    before = _worst.get(report.nodeid, "passed")
    _worst[report.nodeid] = max(before, outcome, key=_ORDER.index)
    if report.when == "teardown":
        _say(report.nodeid, _worst[report.nodeid])


def pytest_collectreport(report: Any) -> None:
    if report.failed:
        _say(report.nodeid, "failed")


def pytest_sessionfinish(session: Any) -> None:
    _say("", "ended")


def _say(name: str, outcome: str) -> None:
    if "TURNWISE_REPORT" in os.environ:
        with open(os.environ["TURNWISE_REPORT"], "a") as file:
            file.write(json.dumps([name, outcome]) + "\n")
