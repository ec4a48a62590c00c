"""What can be wrong with a task, as opposed to what an agent does with it: named and typed."""

from __future__ import annotations

from enum import StrEnum

from turnwise.envs.errors import quote


class ProblemKind(StrEnum):
    """What is wrong."""

    ROW = "row"
    """The row or file cannot be read as a task."""
    REPOSITORY = "repository"
    """Its repository is missing, or cannot be taken as it is."""
    IMAGE = "image"
    """Its image is missing or does not hold the repository."""
    SUBMODULES = "submodules"
    TOO_LARGE = "too_large"
    """Too many files, or too many bytes, to be copied for every task."""
    PATCH = "patch"
    """A patch of the task's does not apply."""
    BASELINE = "baseline"
    """Before any change a test passes that should fail, or fails that should pass."""
    REFERENCE = "reference"
    """The reference repair does not make its tests pass."""
    HANG = "hang"
    """The tests do not end, before any change."""
    PYTHON = "python"
    """The sandbox has no Python that can run the tests."""
    EXPOSED = "exposed"
    """The agent could read the answer: in the repository, or among the host's files."""


class TaskProblem(Exception):
    """A task that cannot be used. The message names the task, what is wrong and the remedy; below it stands
    what the tests printed, where that was it."""

    def __init__(self, kind: ProblemKind, task: str, message: str, output: str = "") -> None:
        super().__init__(f"task {task}: {message}{quote(output)}")
        self.kind = kind
        self.task = task
