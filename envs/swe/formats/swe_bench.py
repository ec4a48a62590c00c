"""Rows of SWE-bench and SWE-bench Verified (``princeton-nlp/SWE-bench``, arXiv 2310.06770).

The hidden tests are what ``test_patch`` leaves of the files it touches. Repositories that are tested by
another runner than pytest are refused: their ids are not pytest's.
"""

from __future__ import annotations

from pydantic import Field

from turnwise.envs.swe.formats.places import Places, check_patch, patched
from turnwise.envs.swe.formats.row import CONDA, Names, Row
from turnwise.envs.swe.problems import ProblemKind, TaskProblem
from turnwise.envs.swe.task import SweLimits, SweTask
from turnwise.envs.types import Split

OTHER_RUNNERS = {"django/django": "runtests.py", "sympy/sympy": "bin/test"}
DIFFICULTY = {"<15 min fix": 0.1, "15 min - 1 hour": 0.4, "1-4 hours": 0.7, ">4 hours": 1.0}
LIMITS = SweLimits(
    turns=100,
    seconds=7200,
    command_seconds=180,
    test_seconds=900,
    observation_chars=32_000,
    memory_mb=4096,
    disk_mb=2048,
)


class SweBenchRow(Row):
    """The columns that make a task."""

    instance_id: str
    repo: str
    patch: str
    test_patch: str
    problem_statement: str
    fail_to_pass: Names = Field(alias="FAIL_TO_PASS", min_length=1)
    pass_to_pass: Names = Field(alias="PASS_TO_PASS")
    difficulty: str | None = None
    """Of Verified only."""

    def image(self) -> str:
        """The published image."""
        return f"swebench/sweb.eval.x86_64.{self.instance_id.replace('__', '_1776_')}:latest".lower()

    def split(self) -> Split:
        """Where its tasks belong."""
        return "test"

    def to_task(self, places: Places) -> SweTask:
        """The task. Raises :class:`TaskProblem`."""
        runner = OTHER_RUNNERS.get(self.repo)
        if runner is not None:
            raise TaskProblem(
                ProblemKind.ROW,
                self.instance_id,
                f"{self.repo} runs its tests with {runner}, not with pytest",
            )
        repository = places.find(self.instance_id, self.image(), setup=CONDA)
        check_patch(self.instance_id, repository, self.patch)
        return SweTask(
            id=self.instance_id,
            issue=self.problem_statement,
            repository=repository,
            split=self.split(),
            module=self.repo,
            patch=self.patch,
            hidden=patched(self.instance_id, repository, self.test_patch),
            fail_to_pass=self.fail_to_pass,
            pass_to_pass=self.pass_to_pass,
            difficulty=DIFFICULTY.get(self.difficulty or ""),
            limits=LIMITS,
        )
