"""Runs one test beside the code that it tests: ``bootstrap.py inside ORDERS``, for the in-process fallback.

It runs in a sandbox of its own and prints what pytest reported. The code under test can print it in its
place, or make pytest report anything: what it says counts only together with the decoys'.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from typing import Any

OPTIONS = (
    "-p",
    "no:cacheprovider",
    "-p",
    "no:terminal",
    "--noconftest",
    "-c",
    "/dev/null",
    "--strict-markers",
)


def main(orders_path: str) -> None:
    with open(orders_path) as file:
        orders = json.load(file)
    os.unlink(orders_path)
    sys.path[:0] = [orders["tests"], *orders["roots"], orders["site"]]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    import pytest

    class Reporter:
        """What the judge's plugin offers, without a judge."""

        def __init__(self) -> None:
            self.collected: list[str] = []
            self.seeded: list[str] = []
            self.phases: dict[str, str] = {}
            self.why = self.detail = ""

        def pytest_configure(self, config: pytest.Config) -> None:
            config.addinivalue_line("markers", "copyback: the package under test may change arguments")

        def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
            if "fresh_rng" in metafunc.fixturenames:
                metafunc.parametrize("fresh_rng", list(orders["seeds"]), indirect=True)

        @pytest.fixture
        def fresh_rng(self, request: pytest.FixtureRequest) -> random.Random:
            return random.Random(f"{orders['seeds'][request.param]} {request.node.nodeid}")

        @pytest.fixture
        def expected(self) -> Callable[[Callable[[], Any]], Any]:
            return lambda build: build()

        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
            self.collected = [item.nodeid for item in items]
            self.seeded = [item.nodeid for item in items if "fresh_rng" in getattr(item, "fixturenames", ())]
            items[:] = [item for item in items if item.nodeid == orders["id"]]

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.outcome != "passed":
                self.detail = report.longreprtext[-2000:]

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> Any:
            report = yield
            self.phases[report.when] = "xfail" if hasattr(report, "wasxfail") else report.outcome
            if call.excinfo is not None:
                self.why, self.detail = call.excinfo.typename, report.longreprtext[-2000:]
            return report

    reporter = Reporter()
    os.chdir(orders["tests"])
    sys.stdout, out = open(os.devnull, "w"), sys.stdout  # noqa: SIM115  # the code under test may print
    pytest.main([*OPTIONS, f"--rootdir={orders['tests']}", *orders["files"]], plugins=[reporter])
    out.write(json.dumps(vars(reporter)))
    out.flush()
    os._exit(0)
