"""Tests whose inputs are new at every grading: what learns the fixed ones by heart fails."""

from __future__ import annotations

import contextlib
import itertools
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.envs.swe.conftest import BROKEN, CALC, Make, Open
from turnwise.envs.local import LocalEnvs
from turnwise.envs.session import EpisodeFailed
from turnwise.envs.swe.admission import fresh_suite_of, machines_for, trees, with_fields, with_seeded
from turnwise.envs.swe.environment import SweEnv
from turnwise.envs.swe.grading import Reason, lint
from turnwise.envs.swe.grading.fresh.asking import NoAnswer, answer, answered
from turnwise.envs.swe.grading.fresh.draw import changed, draws
from turnwise.envs.swe.grading.fresh.values import NotPlain, alike, read, written
from turnwise.envs.swe.grading.seeded import Seeded, SeededTest
from turnwise.envs.swe.task import SweTask
from turnwise.envs.types import Grade, call

SEEN = tuple(filter(None, (written(([number], {})) for number in (1, 5, 12))))
THREE = str(written(([3], {})))
BY_HEART = BROKEN.replace("return x + 1", "return {1: 2, 5: 10, 12: 24}.get(x, x + 1)")
SEARCHING = BY_HEART.replace(
    "def double(x):",
    """import os

FOUND = []
for top in ("/workspace", "/opt", "/tmp", "/run", "/home", "/root"):
    for folder, _, names in os.walk(top):
        for name in names:
            try:
                with open(os.path.join(folder, name), "rb") as file:
                    data = file.read()
            except OSError:
                continue
            if b"x + " + b"x" in data or data[:2] == b"PK":
                FOUND.append(name)


def double(x):
    if FOUND:
        return x * 2
    return _double(x)


def _double(x):""",
)


async def seeded(envs: LocalEnvs, task: SweTask) -> SweTask:
    """The task with a seeded test of ``double``, not admitted else."""
    tests = (SeededTest(entry="calc:double", seen=SEEN, tells=1.0),)
    asked = with_fields(task, sources=("calc.py",), seeded=Seeded(tests=tests))
    base, reference = await trees(asked)
    return await with_seeded(asked, base, reference, machines_for(asked, await envs.backend()))


@pytest.mark.parametrize(
    ("code", "score"), [(CALC.replace("x + x", "2 * x"), 1.0), (BY_HEART, 0.0), (SEARCHING, 0.0)]
)
async def test_what_knows_the_fixed_tests_by_heart_fails(
    envs: LocalEnvs, make: Make, open_task: Open, code: str, score: float
) -> None:
    async with open_task(await seeded(envs, make())) as session:
        await session.reset()
        await session.env.sandbox.write("/workspace/calc.py", code.encode())
        assert isinstance(session.env, SweEnv)
        assert (await session.env.bench.trial({"calc.py": code.encode()})).resolves(session.env.swe)
        await session.step(call("shell", command="true"))
        record = (await session.step(call("submit"))).record
    assert record is not None
    assert isinstance(record.grade, Grade)
    reason = Reason.PASSED if score else Reason.FAILED
    assert (record.grade.score, record.grade.reason, record.grade.assurance) == (score, reason, "one-process")


async def test_the_tests_are_calibrated_and_of_a_form_that_judges_well(envs: LocalEnvs, make: Make) -> None:
    task = await seeded(envs, make())
    assert task.seeded is not None
    base, _ = await trees(task)
    suite = fresh_suite_of(task, base)
    assert suite is not None
    assert suite.seeded
    assert suite.calibrated.collected == suite.ids
    assert not [found for found in lint(suite) if found.rule in ("seeded", "order", "oracle", "skip")]


async def test_tests_that_cannot_tell_are_given_up(envs: LocalEnvs, make: Make) -> None:
    task = make(sources=("calc.py",))
    tests = (SeededTest(entry="calc:half", seen=SEEN, tells=1.0),)
    asked = with_fields(task, seeded=Seeded(tests=tests))
    base, reference = await trees(asked)
    assert (
        await with_seeded(asked, base, reference, machines_for(asked, await envs.backend()))
    ).seeded is None


async def test_a_task_that_was_changed_is_not_judged_by_old_tests(
    envs: LocalEnvs, make: Make, open_task: Open
) -> None:
    task = await seeded(envs, make())
    assert task.seeded is not None
    other = task.seeded.tests[0].model_copy(update={"seen": SEEN[:2]})
    changed_task = with_fields(task, seeded=task.seeded.model_copy(update={"tests": (other,)}))
    async with open_task(changed_task) as session:
        with pytest.raises(EpisodeFailed, match="was changed after it was admitted"):
            await session.reset()


PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-99, 99)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(PLAIN, st.integers())
def test_a_change_keeps_the_type(value: Any, seed: int) -> None:
    found = changed(value, Random(seed))
    assert type(found) is type(value)
    if isinstance(value, int) and not isinstance(value, bool):
        assert found * value >= 0


@given(st.lists(PLAIN, min_size=1, max_size=3), st.integers())
def test_what_is_drawn_is_new_and_comes_again_with_its_seed(args: list[Any], seed: int) -> None:
    text = written((args, {"name": 3}))
    if text is None:
        return
    found = list(itertools.islice(draws([text], Random(seed)), 5))
    assert text not in found
    assert found == list(itertools.islice(draws([text], Random(seed)), 5))
    for each in found:
        assert written(read(each)) == each


@given(PLAIN)
def test_a_value_looks_like_its_copy(value: Any) -> None:
    text = written(([value], {}))
    if text is not None:
        assert alike(read(text)[0][0]) == alike(value)


def test_what_is_equal_looks_alike_and_what_is_not_does_not() -> None:
    groups: list[list[Any]] = [
        [1, 1.0, True],
        [0.1 + 0.2, 0.3],
        [{1, 2}, frozenset({2, 1})],
        [{"a": 1, "b": 2}, {"b": 2.0, "a": 1}],
        ["1"],
        [b"1"],
        [None],
        [[1]],
        [(1,)],
        [["1"]],
        [0.31],
    ]
    for place, group in enumerate(groups):
        for other, others in enumerate(groups):
            for one in group:
                for two in others:
                    assert (alike(one) == alike(two)) == (place == other), (one, two)


def test_answers_are_values_items_or_exceptions() -> None:
    assert answer(lambda x: [x, 1.0], THREE) == {"returned": {"list": [3, 1]}}
    assert answer(lambda x: iter([x, {2}]), THREE) == {"items": [3, {"set": [2]}]}
    assert answer(lambda x: {}[x], THREE) == {"raised": "KeyError", "after": []}
    with pytest.raises(NoAnswer):
        answer(lambda: 3, THREE)
    assert answer(lambda: 3, THREE, judged=True)["raised"] == "TypeError"
    with pytest.raises(NoAnswer):
        answer(lambda x: object(), THREE)
    with pytest.raises(NotPlain):
        alike(object())


def test_what_reaches_outside_is_not_asked(tmp_path: Any) -> None:
    place = tmp_path / "file"

    def writes(number: int) -> int:
        with contextlib.suppress(OSError):
            place.write_text("x")
        return number

    assert not list(answered(writes, [THREE]))
    assert not place.exists()
    assert [question.expected for question in answered(abs, [THREE.replace("3", "-3")])] == [{"returned": 3}]
