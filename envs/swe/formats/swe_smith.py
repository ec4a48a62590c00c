"""Rows of SWE-smith (``SWE-bench/SWE-smith``, arXiv 2504.21798): bugs put into working repositories.

``patch`` is what *breaks* the repository that the image holds. The base of a task is the image with the patch
applied, and the reference repair takes it back. Its tests are those of the repository; the files of those
that fail are hidden, and removed from what the agent is given.
"""

from __future__ import annotations

from pydantic import Field

from turnwise.envs.swe.formats.places import Places, base_files, patched, read_file
from turnwise.envs.swe.formats.row import CONDA, Names, Row
from turnwise.envs.swe.formats.swe_bench import LIMITS
from turnwise.envs.swe.patch import make_patch
from turnwise.envs.swe.problems import ProblemKind, TaskProblem
from turnwise.envs.swe.task import Repository, SweTask


class SweSmithRow(Row):
    """The columns that make a task."""

    instance_id: str
    repo: str
    patch: str
    problem_statement: str
    image_name: str
    fail_to_pass: Names = Field(alias="FAIL_TO_PASS", min_length=1)
    pass_to_pass: Names = Field(alias="PASS_TO_PASS")

    def to_task(self, places: Places) -> SweTask:
        """The task. Raises :class:`TaskProblem`."""
        if not self.problem_statement.strip():
            raise TaskProblem(ProblemKind.ROW, self.instance_id, "it has no problem statement")
        repository = places.find(self.instance_id, self.image_name, setup=CONDA)
        healthy = base_files(self.instance_id, repository, self.patch)
        broken = patched(self.instance_id, repository, self.patch)
        hidden = self._hidden(repository)
        return SweTask(
            id=self.instance_id,
            issue=self.problem_statement,
            repository=repository,
            split="train",
            module=self.repo,
            patch=make_patch({path: text.encode() for path, text in broken.items()}, healthy),
            overlay={path: broken.get(path) for path in {*healthy, *broken}} | dict.fromkeys(hidden),
            hidden=hidden,
            fail_to_pass=self.fail_to_pass,
            pass_to_pass=self.pass_to_pass,
            limits=LIMITS,
        )

    def _hidden(self, repository: Repository) -> dict[str, str]:
        """The files of the tests that fail."""
        files = {}
        for path in {name.split("::")[0] for name in self.fail_to_pass}:
            data = read_file(repository, path)
            if data is None:
                raise TaskProblem(
                    ProblemKind.REPOSITORY, self.instance_id, f"its test file {path} is missing"
                )
            files[path] = data.decode()
        return files
