"""What is handed in, and the grade of it: the one place where a submission meets the hidden tests.

The agent's processes end, its tree is read as bytes, and of that only what a repair may change counts. What
fails the tests when they are merely run on it has failed: code can forge a pass in that way, not a failure.
What passes is judged, in the class that its task was admitted to: by a process apart from the code, or
against decoys. A task of no class is left with the first answer, which a hostile submission could forge.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from weakref import WeakKeyDictionary

from turnwise.envs.errors import UsageError
from turnwise.envs.swe.admission import fresh_suite_of, machines_for, suite_of
from turnwise.envs.swe.bench import Bench, digest
from turnwise.envs.swe.grading import Reason, Rejection, Submission, Suite, Verdict, collect, grade, take
from turnwise.envs.swe.grading.machines import require_pytest
from turnwise.envs.swe.repository import read_files
from turnwise.envs.swe.task import Changes, SweTask, Tree
from turnwise.envs.types import Grade
from turnwise.sandbox.contract import Sandbox

MOST_CHANGED = 2_000
REMEMBERED = 4096
ONE_PROCESS = "one-process"

_verdicts: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
"""Of suites that ask the same of the same files each time."""
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def judged_by(task: SweTask, base: Tree) -> tuple[Suite, ...]:
    """The suites that judge a task, one after the other; none for one that is graded in one process.

    Raises ``UsageError`` where the task was changed since it was admitted, and where pytest is missing.
    """
    found = [suite_of(task, base)] if task.calibration is not None else []
    found += [fresh_suite_of(task, base)] if task.seeded is not None else []
    if found:
        require_pytest()
    suites = [suite for suite in found if suite is not None and suite.is_calibrated]
    if len(suites) < len(found):
        raise UsageError(f"task {task.id!r} was changed after it was admitted; run turnwise tasks admit")
    return tuple(suites)


async def graded(sandbox: Sandbox, bench: Bench, base: Tree) -> Grade:
    """The grade of what is in an agent's sandbox. Raises ``SandboxError`` where the machine fails."""
    task = bench.task
    suites = judged_by(task, base)
    if not suites:
        return await _in_one_process(sandbox, bench, base)
    assurance = suites[0].assurance if task.calibration is not None else ONE_PROCESS
    taken = await take(sandbox, suites[0].rules, at=task.at)
    submission = taken if isinstance(taken, Rejection) else await collect(taken, base, suites[0].rules)
    if isinstance(submission, Submission) and not await _may_pass(bench, submission, base):
        return _told(task, Grade(score=0.0, reason=Reason.FAILED, assurance=assurance))
    for suite in suites:
        verdict = await _judged(suite, bench, submission, base)
        if verdict.score != 1.0:
            break
    return _told(
        task,
        Grade(
            score=verdict.score,
            reason=verdict.reason,
            assurance=assurance,
            notes=(*verdict.notes, *_worth_a_look(verdict)),
            agent_fault=verdict.agent_fault,
        ),
    )


def _worth_a_look(verdict: Verdict) -> list[str]:
    """What the repair uses that cheats often do; it decides nothing."""
    return [f"worth a look: {', '.join(verdict.advice)}"] if verdict.advice else []


async def _may_pass(bench: Bench, submission: Submission, base: Tree) -> bool:
    """Whether the tests pass when they are run together with the code, or did not come to an end."""
    sources = {path for path in base if path.endswith(".py") and bench.task.is_source(path)}
    changes: Changes = {path: data for path, data in submission.files.items() if base.get(path) != data}
    changes |= {path: None for path in sources - submission.files.keys()}
    trial = await bench.trial(changes)
    return trial.timed_out or trial.resolves(bench.task)


async def _judged(suite: Suite, bench: Bench, submission: Submission | Rejection, base: Tree) -> Verdict:
    """The verdict; one grading for each processor at a time, so that none is late for want of one."""
    machines = machines_for(bench.task, await bench.sandboxes.backend())
    loop = asyncio.get_running_loop()
    async with _turns.setdefault(loop, asyncio.Semaphore(os.cpu_count() or 1)):
        if isinstance(submission, Rejection) or suite.seeded:
            return await grade(suite, base, submission, machines=machines)
        key = bench.task.digest, digest(dict(submission.files))
        verdict = _verdicts.get(key) or await grade(suite, base, submission, machines=machines)
        if verdict.reason is not Reason.MISBEHAVED:  # in which a busy machine may have a part
            _verdicts[key] = verdict
            while len(_verdicts) > REMEMBERED:
                _verdicts.popitem(last=False)
        return verdict


async def _in_one_process(sandbox: Sandbox, bench: Bench, base: Tree) -> Grade:
    repair = await _repair(sandbox, bench.task, base)
    trial = await bench.trial(repair) if repair else None
    passed = trial is not None and trial.resolves(bench.task)
    reason = Reason.PASSED if passed else Reason.FAILED
    return _told(bench.task, Grade(score=float(passed), reason=reason, assurance=ONE_PROCESS))


async def _repair(sandbox: Sandbox, task: SweTask, base: Tree) -> Changes | None:
    """What the agent changed of the sources, read when none of its processes is left; None where that is no
    repair, whatever it is."""
    try:
        files = await read_files(sandbox, task.at)
    except OSError:
        return None
    changes: Changes = {path: data for path, data in files.items() if base.get(path) != data}
    changes |= {path: None for path in base.keys() - files.keys()}
    repair = {path: data for path, data in changes.items() if task.is_source(path)}
    return repair if len(repair) <= MOST_CHANGED else None


def _told(task: SweTask, grade: Grade) -> Grade:
    """Small vocabularies have no words for a reason."""
    return grade.model_copy(update={"reason": ""}) if task.terse else grade
