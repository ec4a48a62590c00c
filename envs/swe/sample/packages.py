"""Packages written for the sample, with the bugs that make tasks of them: ``NAME.yaml`` beside this file.

A package is given as it should be, with its visible and its hidden tests. A task puts a few wrong pieces in
the place of right ones, each unique in its file; taking them back is the reference repair.
"""

from __future__ import annotations

import ast
import json
from functools import cache
from importlib import resources

import yaml
from pydantic import Field

from turnwise.envs.swe.patch import make_patch
from turnwise.envs.swe.task import FilesRepository, SweLimits, SweTask
from turnwise.envs.types import Model, Split

PACKAGES = ("spans", "ledger")
LIMITS = SweLimits(turns=20, seconds=600, command_seconds=20, test_seconds=20, memory_mb=256, disk_mb=64)


class Edit(Model):
    """A wrong piece in the place of a right one."""

    file: str
    right: str
    wrong: str


class Bug(Model):
    """What one task is made of."""

    id: str
    module: str
    split: Split
    issue: str
    edits: tuple[Edit, ...] = Field(min_length=1)
    fail_to_pass: tuple[str, ...]
    difficulty: float


class Package(Model):
    """A package with its tests and its bugs."""

    package: str
    files: dict[str, str]
    hidden: dict[str, str]
    tasks: tuple[Bug, ...]

    def task(self, bug: Bug) -> SweTask:
        """One task. Raises ``ValueError`` for an edit whose right piece is not in its file exactly once."""
        broken = dict(self.files)
        for edit in bug.edits:
            if broken[edit.file].count(edit.right) != 1:
                raise ValueError(f"{bug.id}: {edit.right!r} is not once in {edit.file}")
            broken[edit.file] = broken[edit.file].replace(edit.right, edit.wrong)
        changed = {edit.file for edit in bug.edits}
        tests = [name for path, text in self.hidden.items() for name in names_of_tests(path, text)]
        return SweTask(
            id=bug.id,
            issue=bug.issue.strip(),
            repository=FilesRepository(files=broken),
            split=bug.split,
            module=bug.module,
            patch=make_patch(
                {path: broken[path].encode() for path in changed},
                {path: self.files[path].encode() for path in changed},
            ),
            hidden=self.hidden,
            fail_to_pass=bug.fail_to_pass,
            pass_to_pass=tuple(name for name in tests if name not in bug.fail_to_pass),
            visible=("tests",),
            sources=(self.package,),
            difficulty=bug.difficulty,
            verified=True,
            limits=LIMITS,
        )


def names_of_tests(path: str, text: str) -> list[str]:
    """The ids of the functions that are tests."""
    defined = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return [f"{path}::{name}" for name in defined if name.startswith("test_")]


@cache
def packaged_tasks() -> tuple[SweTask, ...]:
    """The tasks of all packages, as they were admitted."""
    known = json.loads(resources.files(__package__).joinpath("admitted.json").read_text(encoding="utf-8"))
    return tuple(SweTask.model_validate(dict(task) | known.get(task.id, {})) for task in bare_tasks())


def bare_tasks() -> list[SweTask]:
    """The tasks of all packages, not admitted."""
    tasks = []
    for name in PACKAGES:
        text = resources.files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        package = Package.model_validate(yaml.safe_load(text))
        tasks += [package.task(bug) for bug in package.tasks]
    return tasks
