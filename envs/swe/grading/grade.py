"""Grading a submission with a calibrated suite."""

from __future__ import annotations

import secrets
import time

from turnwise.envs.swe.grading import inprocess, split
from turnwise.envs.swe.grading.machines import Machines, program_files, repository
from turnwise.envs.swe.grading.rules import Rejection, Submission, Tree
from turnwise.envs.swe.grading.suite import SEEDS, Suite, census
from turnwise.envs.swe.grading.verdict import Verdict, rejected, verdict


async def grade(
    suite: Suite, base: Tree, submission: Submission | Rejection, *, machines: Machines
) -> Verdict:
    """The verdict on what :func:`~turnwise.envs.swe.grading.collect.collect` returned.

    ``base`` is the pristine repository. Raises ``UsageError`` for a suite that is not calibrated, and
    ``SandboxError`` when machine or judge fail, which says nothing about the submission.
    """
    known = suite.calibrated
    if isinstance(submission, Rejection):
        return rejected(submission, suite)
    if suite.assurance == "in-process":
        found = await inprocess.grade(suite, base, submission.files, fresh_seeds(), machines=machines)
    else:
        found = await _split(suite, base, submission.files, machines)
    advice = tuple(use for use in submission.uses if use not in known.uses)
    return found.model_copy(update={"advice": advice})


async def _split(suite: Suite, base: Tree, source: Tree, machines: Machines) -> Verdict:
    began, known = time.monotonic(), suite.calibrated
    order = split.Order(suite, seeds=fresh_seeds(), surface=known.surface, ids=suite.ids)
    files = repository(base, source, suite.rules) | program_files(*split.WORKER_FILES)
    async with machines.prepared(files) as snapshot:
        seen = await split.judge(order, snapshot, machines)
    return verdict(
        suite,
        seen.passed(),
        seen.details | seen.uncollected,
        notes=list(dict.fromkeys(seen.notes)),
        complete=census(seen.collected) == known.collected and not seen.uncollected,
        seconds=time.monotonic() - began,
    )


def fresh_seeds() -> dict[str, int]:
    """One for each run of a seeded test: answers drawn at random do not survive both."""
    return {name: secrets.randbits(64) for name in SEEDS}
