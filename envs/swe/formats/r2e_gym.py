"""Rows of R2E-Gym (``R2E-Gym/R2E-Gym-Subset``, arXiv 2504.07164): commits with generated tests.

Tests go by ``Class.test``, without their file. Every test that is expected to pass counts: as one to be
mended where it did not pass on the old commit, else as one to be kept.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from turnwise.envs.swe.formats.places import Places, check_patch
from turnwise.envs.swe.formats.row import Row
from turnwise.envs.swe.formats.swe_bench import LIMITS
from turnwise.envs.swe.patch import make_patch
from turnwise.envs.swe.problems import ProblemKind, TaskProblem
from turnwise.envs.swe.task import SweTask

SETUP = "export PATH=/testbed/.venv/bin:$PATH"
FOLDER = "r2e_tests"
_PASSED = re.compile(r"^PASSED \S+?::(\S+)", re.MULTILINE)


class _Named(BaseModel):
    model_config = ConfigDict(extra="ignore")
    path: str


class _Header(BaseModel):
    model_config = ConfigDict(extra="ignore")
    file: _Named


class _FileDiff(BaseModel):
    model_config = ConfigDict(extra="ignore")
    header: _Header
    old_file_content: str = ""
    new_file_content: str = ""


class _Commit(BaseModel):
    model_config = ConfigDict(extra="ignore")
    file_diffs: tuple[_FileDiff, ...]


class _Execution(BaseModel):
    model_config = ConfigDict(extra="ignore")
    test_file_names: tuple[str, ...]
    test_file_codes: tuple[str, ...]
    old_commit_res_stdout: str = ""


class R2EGymRow(Row):
    """The columns that make a task; three of them hold JSON."""

    repo_name: str
    commit_hash: str
    docker_image: str
    problem_statement: str
    parsed_commit_content: str
    execution_result_content: str
    expected_output_json: str

    @property
    def instance_id(self) -> str:
        """Rows have no id of their own."""
        return f"{self.repo_name}-{self.commit_hash[:12]}"

    def to_task(self, places: Places) -> SweTask:
        """The task. Raises :class:`TaskProblem`."""
        try:
            commit = _Commit.model_validate_json(self.parsed_commit_content)
            execution = _Execution.model_validate_json(self.execution_result_content)
            expected: dict[str, Any] = TypeAdapter(dict[str, str]).validate_json(self.expected_output_json)
        except ValidationError as error:
            reason = str(error).splitlines()[0]
            raise TaskProblem(
                ProblemKind.ROW, self.instance_id, f"its JSON is not as known: {reason}"
            ) from None
        repository = places.find(self.instance_id, self.docker_image, setup=SETUP)
        patch = _patch(commit)
        check_patch(self.instance_id, repository, patch)
        before = {".".join(name.split("::")) for name in _PASSED.findall(execution.old_commit_res_stdout)}
        wanted = [name for name, outcome in expected.items() if name and outcome == "PASSED"]
        hidden = zip(execution.test_file_names, execution.test_file_codes, strict=True)
        return SweTask(
            id=self.instance_id,
            issue=self.problem_statement,
            repository=repository,
            split="train",
            module=self.repo_name,
            patch=patch,
            hidden={f"{FOLDER}/{name}": code for name, code in hidden},
            fail_to_pass=tuple(name for name in wanted if name not in before),
            pass_to_pass=tuple(name for name in wanted if name in before),
            ids="dotted",
            limits=LIMITS,
        )


def _patch(commit: _Commit) -> str:
    """What the commit did to the sources; its tests are no part of the repair."""
    own = [diff for diff in commit.file_diffs if "test" not in diff.header.file.path.lower()]
    before = {d.header.file.path: d.old_file_content.encode() for d in own if d.old_file_content}
    after = {d.header.file.path: d.new_file_content.encode() for d in own if d.new_file_content}
    return make_patch(before, after)
