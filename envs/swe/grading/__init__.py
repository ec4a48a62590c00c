"""Grading hidden tests against hostile code; ``docs/swe-grading.md`` says what it claims and how it works.

    submission = await collect(sandbox, base, suite.rules)          # closes the agent's sandbox
    verdict = await grade(suite, base, submission, machines=Machines(backend))

A suite is made once, with ``calibrate`` or ``choose_assurance``, and looked over with ``lint``.
"""

from turnwise.envs.swe.grading.calibrate import NotCalibrated, calibrate, choose_assurance
from turnwise.envs.swe.grading.collect import collect, take
from turnwise.envs.swe.grading.grade import grade
from turnwise.envs.swe.grading.lint import Finding, lint
from turnwise.envs.swe.grading.machines import GradingError, Machines
from turnwise.envs.swe.grading.rules import Fault, Rejection, Rules, Submission, Tree
from turnwise.envs.swe.grading.suite import Bounds, Calibration, Suite
from turnwise.envs.swe.grading.verdict import Reason, TestResult, Verdict

__all__ = [
    "Bounds",
    "Calibration",
    "Fault",
    "Finding",
    "GradingError",
    "Machines",
    "NotCalibrated",
    "Reason",
    "Rejection",
    "Rules",
    "Submission",
    "Suite",
    "TestResult",
    "Tree",
    "Verdict",
    "calibrate",
    "choose_assurance",
    "collect",
    "grade",
    "lint",
    "take",
]
