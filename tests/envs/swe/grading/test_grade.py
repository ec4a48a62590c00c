"""Verdicts on right and wrong code, and failures that are nobody's code."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.envs.swe.grading.conftest import Grader
from turnwise.envs.errors import UsageError
from turnwise.envs.swe.grading import Fault, GradingError, Reason, Rejection, Submission, collect, grade
from turnwise.sandbox import Limits, SandboxError, SandboxSpec, backend

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_right_code_gets_full_marks_however_it_is_written(grader: Grader) -> None:
    for tree in (grader.sample.reference, grader.sample.another):
        verdict = await grader.tree(tree)
        assert (verdict.score, verdict.reason, verdict.notes) == (1.0, Reason.PASSED, ())
        assert [test.id for test in verdict.tests if test.passed] == [*grader.suite.ids]


async def test_the_broken_base_fails_the_tests_to_be_mended(grader: Grader) -> None:
    verdict = await grader.tree(grader.sample.base)
    assert (verdict.score, verdict.reason, verdict.agent_fault) == (0.0, Reason.FAILED, False)
    assert {test.id for test in verdict.tests if test.passed} == {*grader.suite.pass_to_pass}
    (failed, *_) = [test for test in verdict.tests if not test.passed]
    assert "assert" in failed.detail


async def test_half_a_repair_is_no_repair(grader: Grader) -> None:
    spans = "src/shelf/spans.py"
    verdict = await grader.tree({**grader.sample.base, spans: grader.sample.reference[spans]})
    assert verdict.score == 0.0
    assert sum(test.passed for test in verdict.tests) == len(grader.suite.pass_to_pass) + 4


async def test_gradings_at_the_same_time_do_not_mix(grader: Grader) -> None:
    trees = [grader.sample.reference, grader.sample.base, grader.sample.another]
    verdicts = await asyncio.gather(*map(grader.tree, trees))
    assert [verdict.score for verdict in verdicts] == [1.0, 0.0, 1.0]


async def test_a_rejected_tree_scores_nothing_and_is_the_agents_fault(grader: Grader) -> None:
    rejection = Rejection(fault=Fault.LINK, path="src/shelf")
    verdict = await grade(grader.suite, grader.sample.base, rejection, machines=grader.machines)
    assert (verdict.score, verdict.reason, verdict.agent_fault) == (0.0, Reason.REJECTED, True)


async def test_what_the_agent_is_told_names_no_test(grader: Grader) -> None:
    words = " ".join(Reason)
    assert not any(word in words for name in grader.suite.ids for word in name.split("::"))


async def test_new_uses_are_advice_and_no_verdict(grader: Grader) -> None:
    path = "src/shelf/grouping.py"
    code = grader.sample.reference[path] + b"\nimport gc\n"
    verdict = await grader.tree({**grader.sample.reference, path: code})
    assert (verdict.score, verdict.advice) == (1.0, ("import gc",))


async def test_a_suite_is_graded_with_only_as_it_was_calibrated(grader: Grader) -> None:
    files = {**grader.suite.files, "test_more.py": b""}
    for changed in (
        grader.suite.model_copy(update={"calibration": None}),
        grader.suite.model_copy(update={"files": files}),
    ):
        with pytest.raises(UsageError, match="calibrat"):
            await grade(changed, grader.sample.base, Submission(files={}), machines=grader.machines)


async def test_a_suite_survives_being_written_and_read(grader: Grader) -> None:
    read = type(grader.suite).model_validate_json(grader.suite.model_dump_json())
    assert read == grader.suite
    assert (await replace(grader, suite=read).tree(grader.sample.reference)).score == 1.0


async def test_a_machine_that_fails_gives_no_verdict(grader: Grader) -> None:
    async with backend("namespaces").running() as running:
        machines = replace(grader.machines, backend=running)
    with pytest.raises(SandboxError):
        await replace(grader, machines=machines).tree(grader.sample.reference)


async def test_a_worker_that_cannot_be_started_is_no_verdict(grader: Grader) -> None:
    machines = replace(grader.machines, python=("no-such-python",))
    with pytest.raises(GradingError, match="no-such-python"):
        await replace(grader, machines=machines).tree(grader.sample.reference)


async def test_a_repository_too_large_for_a_worker_is_no_verdict(grader: Grader) -> None:
    small = replace(grader.machines, spec=SandboxSpec(limits=Limits(disk=2 << 20)))
    base = {**grader.sample.base, "data.bin": bytes(4 << 20)}
    submission = await collect(grader.sample.reference, base, grader.suite.rules)
    with pytest.raises(GradingError, match="does not fit"):
        await grade(grader.suite, base, submission, machines=small)
