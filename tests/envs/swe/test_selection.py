"""Which tests of many are judged, and what becomes of those that cannot be split."""

from __future__ import annotations

from tests.envs.swe.conftest import Make
from turnwise.envs.local import LocalEnvs
from turnwise.envs.swe.admission import admit, machines_for, trees, with_fields
from turnwise.envs.swe.judged import ALL, MOST_KEPT, MOST_MENDED, selection
from turnwise.envs.swe.task import SweTask

MENDED = tuple(f"tests/test_a.py::test_{name}[{number}]" for name in "abc" for number in range(15))
FAR = tuple(f"tests/test_b.py::test_{number}" for number in range(30))
NEAR = tuple(f"tests/test_a.py::test_near_{number}" for number in range(5))
HIDDEN = """
from calc import double, half

def test_double():
    assert double(5) == 10

def test_twice():
    assert double(6) == 12

def test_code():
    assert double.__code__.co_argcount == 1
    assert double(7) == 14

def test_half():
    assert half(4) == 2
"""


def test_few_are_all_judged_and_of_many_some_of_every_function(make: Make) -> None:
    task = make(fail_to_pass=MENDED, pass_to_pass=FAR + NEAR)
    judged = selection(task)
    assert len(judged) == MOST_MENDED + MOST_KEPT
    for name in "abc":
        assert f"tests/test_a.py::test_{name}[0]" in judged
        assert sum(test.startswith(f"tests/test_a.py::test_{name}[") for test in judged) == MOST_MENDED // 3
    assert set(NEAR) <= set(judged)
    assert judged == selection(task)
    few = make(fail_to_pass=MENDED[: ALL - 3], pass_to_pass=FAR[:3])
    assert selection(few) == few.fail_to_pass + few.pass_to_pass
    assert selection(few, MENDED[1:]) == (MENDED[0], *FAR[:3])


async def admitted(envs: LocalEnvs, task: SweTask) -> SweTask:
    base, reference = await trees(task)
    return await admit(task, base, reference, machines_for(task, await envs.backend()))


async def test_what_cannot_be_split_is_left_out_where_most_can(envs: LocalEnvs, make: Make) -> None:
    names = ("test_double", "test_twice", "test_code")
    task = make(
        sources=("calc.py",),
        hidden={"test_hidden.py": HIDDEN},
        fail_to_pass=tuple(f"test_hidden.py::{name}" for name in names),
    )
    found = await admitted(envs, task)
    assert found.assurance == "split"
    assert found.judged == tuple(
        f"test_hidden.py::{name}" for name in ("test_double", "test_twice", "test_half")
    )
    fewer = with_fields(
        task, fail_to_pass=("test_hidden.py::test_code",), pass_to_pass=("test_hidden.py::test_half",)
    )
    found = await admitted(envs, fewer)
    assert (found.assurance, found.judged) == ("in-process", ())
