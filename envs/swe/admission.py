"""Admission: which class of grading a task's hidden tests allow, found out once and kept with the task.

A task whose suite can be calibrated is judged by :mod:`.grading`, split where possible; one whose suite
cannot (fixtures of the repository's own, sources that are not named, a repository inside an image) is
graded in one process with the code under test, and its class says so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from turnwise.envs.swe.grading import Machines, NotCalibrated, Rules, Suite, calibrate
from turnwise.envs.swe.grading.machines import WORKER_LIMITS
from turnwise.envs.swe.grading.rules import holds_tests
from turnwise.envs.swe.grading.seeded import seeded_suite
from turnwise.envs.swe.grading.suite import Assurance
from turnwise.envs.swe.judged import selection
from turnwise.envs.swe.patch import PatchFailed, apply_patch
from turnwise.envs.swe.problems import ProblemKind, TaskProblem
from turnwise.envs.swe.repository import owned_files
from turnwise.envs.swe.task import SweTask, Tree
from turnwise.sandbox.contract import Backend, MiB, SandboxSpec

ROUNDS = 3
"""In which tests are found that cannot be split."""
MOST = 0.5
"""The share of the tests to be mended, of those that would be judged, that has to be split."""


def machines_for(task: SweTask, backend: Backend) -> Machines:
    """Where the code of a task runs while it is judged."""
    limits = replace(WORKER_LIMITS, memory=task.limits.memory_mb * MiB)
    return Machines(backend, SandboxSpec(limits=limits, root=task.root))


def suite_of(task: SweTask, base: Tree) -> Suite | None:
    """The suite of a task, with the calibration that the task holds; None where it cannot be one."""
    if task.repository.kind == "image" or task.ids == "dotted" or not task.sources:
        return None
    hidden = {path: text.encode() for path, text in task.hidden.items()}
    mended, kept = (
        tuple(name for name in names if not task.judged or name in task.judged)
        for names in (task.fail_to_pass, task.pass_to_pass)
    )
    files = {name.split("::")[0] for name in (*mended, *kept)}
    beside = {path: data for path, data in base.items() if task.is_test(path)}
    tests = {path: data for path, data in beside.items() if path in files or not holds_tests(path)} | hidden
    try:
        return Suite(
            rules=Rules(sources=task.sources),
            files=tests,
            fail_to_pass=mended,
            pass_to_pass=tuple(name for name in kept if name not in mended),
            assurance=task.assurance if task.assurance not in (None, "one-process") else "split",
            calibration=task.calibration,
        )
    except ValidationError:  # sources that are no packages
        return None


def fresh_suite_of(task: SweTask, base: Tree) -> Suite | None:
    """The suite of a task's seeded tests; None where it has none."""
    if task.seeded is None:
        return None
    return seeded_suite(task.seeded, repaired(task, base), Rules(sources=task.sources))


def repaired(task: SweTask, base: Tree) -> Tree:
    """A task's repository with its reference repair.

    Raises :class:`~turnwise.envs.swe.problems.TaskProblem` where that does not apply.
    """
    try:
        after = {**base, **apply_patch(task.patch, base)}
    except PatchFailed as error:
        raise TaskProblem(ProblemKind.PATCH, task.id, f"its patch does not apply: {error}") from None
    return {path: data for path, data in after.items() if data is not None}


async def trees(task: SweTask) -> tuple[Tree, Tree]:
    """The broken repository and the repaired one; empty where they are in an image.

    Raises :class:`~turnwise.envs.swe.problems.TaskProblem` where the reference does not apply.
    """
    base, _ = await owned_files(task)
    return base, repaired(task, base) if base else {}


async def admit(task: SweTask, base: Tree, reference: Tree, machines: Machines) -> SweTask:
    """The task with its class, as :func:`classify` finds it."""
    return (await classify(task, base, reference, machines))[0]


async def classify(task: SweTask, base: Tree, reference: Tree, machines: Machines) -> tuple[SweTask, str]:
    """The task with its class, which is the best that its hidden tests allow, and why it is no better.

    ``base`` is the broken repository and ``reference`` the repaired one, whole. Declare
    ``split-with-edits`` where tests were rewritten to be split. Raises ``SandboxError``.
    """
    task = await with_seeded(task, base, reference, machines)
    edited = task.assurance == "split-with-edits"
    bare = with_fields(task, assurance="one-process", calibration=None, judged=())
    if suite_of(bare, base) is None:
        return bare, "it is in an image, or its sources are not declared as packages or modules"
    found = await _split(bare, base, reference, machines, "split-with-edits" if edited else "split")
    if found is not None:
        return found, ""
    try:
        return await _in_class(bare, "in-process", selection(bare), base, reference, machines), ""
    except NotCalibrated as error:
        return bare, str(error)


async def _split(
    task: SweTask, base: Tree, reference: Tree, machines: Machines, assurance: Assurance
) -> SweTask | None:
    """The task as its tests can be split, without those that cannot where most can; None where few can."""
    wanted = len(set(selection(task)) & set(task.fail_to_pass))
    unfit: set[str] = set()
    for _ in range(ROUNDS):
        judged = selection(task, unfit)
        if len(set(judged) & set(task.fail_to_pass)) < MOST * wanted:
            return None
        try:
            return await _in_class(task, assurance, judged, base, reference, machines)
        except NotCalibrated as error:
            if set(error.tests).isdisjoint(judged):  # it is none of theirs that is wrong
                return None
            unfit |= set(error.tests)
    return None


async def _in_class(
    task: SweTask,
    assurance: Assurance,
    judged: tuple[str, ...],
    base: Tree,
    reference: Tree,
    machines: Machines,
) -> SweTask:
    """The task in a class, with these tests judged. Raises :class:`NotCalibrated`."""
    every = set(judged) == {*task.fail_to_pass, *task.pass_to_pass}
    chosen = with_fields(task, assurance=assurance, judged=() if every else judged)
    suite = suite_of(chosen, base)
    assert suite is not None
    found = await calibrate(suite, reference, base, machines=machines)
    return with_fields(chosen, calibration=found.calibration)


async def with_seeded(task: SweTask, base: Tree, reference: Tree, machines: Machines) -> SweTask:
    """The task with its seeded tests calibrated, or without them where they cannot judge.

    Raises ``SandboxError``.
    """
    suite = fresh_suite_of(task, base)
    if task.seeded is None or suite is None or suite.is_calibrated:
        return task
    try:
        found = await calibrate(suite, reference, base, machines=machines)
    except NotCalibrated:
        return with_fields(task, seeded=None)
    return with_fields(task, seeded=task.seeded.model_copy(update={"calibration": found.calibration}))


def with_fields(task: SweTask, **fields: Any) -> SweTask:
    """A changed task, without what was worked out of the old one."""
    own = {name: getattr(task, name) for name in SweTask.model_fields}
    return SweTask.model_validate(own | fields)
