"""A suite that cannot tell right from wrong is refused, with the tests that it is about."""

from __future__ import annotations

import pytest

from tests.envs.swe.grading.conftest import Grader
from turnwise.envs.swe.cheats.catalogue import entries
from turnwise.envs.swe.grading import (
    Machines,
    NotCalibrated,
    Reason,
    Rules,
    Suite,
    calibrate,
    choose_assurance,
)
from turnwise.envs.swe.grading.calibrate import imported_modules
from turnwise.envs.swe.grading.collect import collect
from turnwise.envs.swe.grading.grade import grade

pytestmark = pytest.mark.asyncio(loop_scope="session")

RULES = Rules(sources=("pkg",))
BASE = {"pkg/__init__.py": b"class Base:\n    def one(self): return 0\n\ndef two(): return 2\n"}
RIGHT = {"pkg/__init__.py": b"class Base:\n    def one(self): return 1\n\ndef two(): return 2\n"}
TESTS = """
from pkg import Base, two

def test_one():
    assert Base().one() == 1

def test_two():
    assert two() == 2
"""


def suite(
    tests: str = TESTS, fail: tuple[str, ...] = ("test_one",), keep: tuple[str, ...] = ("test_two",)
) -> Suite:
    return Suite(
        rules=RULES,
        files={"test_pkg.py": tests.encode()},
        fail_to_pass=tuple(f"test_pkg.py::{name}" for name in fail),
        pass_to_pass=tuple(f"test_pkg.py::{name}" for name in keep),
    )


async def test_a_good_suite_is_calibrated(machines: Machines) -> None:
    found = await calibrate(suite(), RIGHT, BASE, machines=machines)
    assert found.calibrated.collected == ("test_pkg.py::test_one", "test_pkg.py::test_two")
    assert not found.seeded
    assert found.calibrated.surface["pkg"]


async def test_a_package_may_have_another_name_for_object(machines: Machines) -> None:
    named = {"pkg/__init__.py": b"Anything = object\n"}
    right, base = ({path: named[path] + tree[path] for path in tree} for tree in (RIGHT, BASE))
    assert (await calibrate(suite(), right, base, machines=machines)).calibrated.surface["pkg"]


@pytest.mark.parametrize(
    ("tests", "fail", "keep", "message"),
    [
        (TESTS, ("test_one", "test_three"), (), "not there: test_pkg.py::test_three"),
        (TESTS, ("test_two",), (), "base passes what it should fail: test_pkg.py::test_two"),
        (TESTS, ("test_one",), ("test_one",), "listed twice"),
        (TESTS.replace("== 1", "== 3"), ("test_one",), (), "reference fails: test_pkg.py::test_one"),
        (
            TESTS.replace("== 2", "== 2 == Base().one() + 1"),
            ("test_one",),
            ("test_two",),
            "fails what it should pass",
        ),
        ("import nothing_of_this_name\n" + TESTS, ("test_one",), (), "test file cannot be read"),
    ],
)
async def test_a_bad_suite_is_refused(
    machines: Machines, tests: str, fail: tuple[str, ...], keep: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        await calibrate(suite(tests, fail, keep), RIGHT, BASE, machines=machines)


async def test_skipped_and_expected_failures_are_no_passes(machines: Machines) -> None:
    tests = TESTS.replace("def test_one", "import pytest\n@pytest.mark.xfail\ndef test_one")
    with pytest.raises(NotCalibrated, match="reference fails"):
        await calibrate(suite(tests), RIGHT, BASE, machines=machines)


async def test_mutants_that_pass_are_told(machines: Machines) -> None:
    mutant = {"pkg/__init__.py": RIGHT["pkg/__init__.py"] + b"\ndef two(): return 2.0\n"}
    with pytest.raises(NotCalibrated, match="mutant 0"):
        await calibrate(suite(), RIGHT, BASE, machines=machines, mutants=[mutant])


async def test_hidden_tests_are_not_in_the_repository(machines: Machines) -> None:
    with pytest.raises(NotCalibrated, match="holds its hidden test"):
        await calibrate(suite(), RIGHT, {**BASE, **suite().files}, machines=machines)


async def test_modules_are_found_by_every_name_they_may_have() -> None:
    tests = "import pkg.a.b as c\nfrom pkg.d import e\nimport os\nfrom . import f\n"
    assert imported_modules(suite(tests)) == ["pkg", "pkg.a", "pkg.a.b", "pkg.d", "pkg.d.e"]


async def test_what_cannot_be_split_is_graded_in_process_against_decoys(
    machines: Machines, grader: Grader
) -> None:
    tests = """
from pkg import Base

class Mine(Base):
    pass

def test_one():
    assert Mine().one() == 1
"""
    found = await choose_assurance(suite(tests, keep=()), RIGHT, BASE, machines=machines)
    assert found.assurance == "in-process"
    assert found.calibrated.decoys
    forged = {"pkg/__init__.py": BASE["pkg/__init__.py"] + entries()["pytest-call-info"].code.encode()}
    for tree, score, reason in (
        (RIGHT, 1.0, Reason.PASSED),
        (BASE, 0.0, Reason.FAILED),
        (forged, 0.0, Reason.MISBEHAVED),
    ):
        submission = await collect(tree, BASE, RULES)
        verdict = await grade(found, BASE, submission, machines=machines)
        assert (verdict.score, verdict.reason, verdict.assurance) == (score, reason, "in-process")
