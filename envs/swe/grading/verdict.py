"""What a grading says: to the agent one word, to the trainer's side everything.

The verdict is which tests passed all their phases, by exact ids, as reported by a process that the code
under test cannot reach (in-process: see :mod:`.inprocess`). Summaries and exit statuses are never read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from pydantic import Field

from turnwise.envs.swe.grading.rules import Fault, Rejection
from turnwise.envs.swe.grading.suite import Assurance, Suite
from turnwise.envs.types import Model


class Reason(StrEnum):
    """All that an agent learns."""

    PASSED = "the hidden tests pass"
    FAILED = "some hidden tests fail"
    MISBEHAVED = "the code broke the rules of grading"
    REJECTED = "the repository holds files that cannot be graded"


class TestResult(Model):
    """How one test went. For the trainer's side only."""

    __test__ = False

    id: str
    passed: bool
    detail: str = ""


class Verdict(Model):
    """The grade of one submission."""

    score: float = Field(ge=0.0, le=1.0)
    """1 or 0."""
    reason: Reason
    assurance: Assurance
    tests: tuple[TestResult, ...] = ()
    """In the order of the suite's ids; all failed where the code misbehaved. For the trainer's side only."""
    notes: tuple[str, ...] = ()
    """What the code did that none may do, or why the tree was rejected. For the trainer's side only."""
    advice: tuple[str, ...] = ()
    """What the changes use that neither base nor reference do and cheats often do: worth a look, no more."""
    seconds: float = 0.0

    @property
    def agent_fault(self) -> bool:
        """The agent overstepped: its tree was rejected, or its code misbehaved."""
        return self.reason in (Reason.MISBEHAVED, Reason.REJECTED)


def verdict(
    suite: Suite,
    passed: Mapping[str, bool],
    details: Mapping[str, str],
    *,
    notes: Sequence[str],
    complete: bool,
    seconds: float,
) -> Verdict:
    """Of what was seen: full marks for every id passed, the set of tests as calibrated, and no notes."""
    tests = tuple(
        TestResult(id=name, passed=passed.get(name, False) and not notes, detail=details.get(name, ""))
        for name in suite.ids
    )
    full = complete and not notes and all(test.passed for test in tests)
    return Verdict(
        score=1.0 if full else 0.0,
        reason=Reason.PASSED if full else Reason.MISBEHAVED if notes else Reason.FAILED,
        assurance=suite.assurance,
        tests=tests,
        notes=tuple(notes),
        seconds=seconds,
    )


MISTAKES = (Fault.SYNTAX, Fault.ENCODING, Fault.MISSING)
"""What an honest repair may get wrong."""


def rejected(rejection: Rejection, suite: Suite) -> Verdict:
    return Verdict(
        score=0.0,
        reason=Reason.FAILED if rejection.fault in MISTAKES else Reason.REJECTED,
        assurance=suite.assurance,
        tests=tuple(TestResult(id=name, passed=False) for name in suite.ids),
        notes=(f"{rejection.fault}: {rejection.path}",),
    )
