"""Rows that the task factory writes: a task in terms of the repository folder that it shares with others.

What the agent is given is the folder with a ``change`` put in: the bug, and the tests that it may not see cut
out. The hidden tests are files of the folder as they are in it. All else is in the row as it is in the task.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import JsonValue, ValidationError

from turnwise.envs.errors import invalid
from turnwise.envs.swe.formats.places import on_python, patched, read_file
from turnwise.envs.swe.patch import make_patch, touched
from turnwise.envs.swe.problems import ProblemKind, TaskProblem
from turnwise.envs.swe.repository import check_folder
from turnwise.envs.swe.task import FolderRepository, SweTask, Tree
from turnwise.envs.types import Model

FILE = "tasks.jsonl"
"""Its name in the folder that the factory writes."""


class BuiltRow(Model):
    """One task."""

    id: str
    repository: str
    """The folder, relative to the file of the rows."""
    requires: tuple[str, ...] = ()
    """Pinned distributions in the image that it stands on; none: this machine's ``/usr``."""
    change: str
    """A patch of the folder."""
    hidden: tuple[str, ...]
    """Files of the folder that are hidden tests."""
    task: dict[str, JsonValue]
    """The other fields."""

    @classmethod
    def of(cls, task: SweTask, files: Tree, repository: str, requires: tuple[str, ...]) -> Self:
        """The row of a task, whose repository has these files before its overlay."""
        after = {path: text.encode() for path, text in task.overlay.items() if text is not None}
        own = {"id", "repository", "overlay", "hidden"}
        return cls(
            id=task.id,
            repository=repository,
            requires=requires,
            change=make_patch({path: files[path] for path in task.overlay}, after),
            hidden=tuple(task.hidden),
            task=task.model_dump(mode="json", exclude=own, exclude_defaults=True) | {"split": task.split},
        )

    def having(self, fields: dict[str, JsonValue]) -> BuiltRow:
        """The same with some fields of the task's."""
        return self.model_copy(update={"task": self.task | fields})

    @property
    def seeded_tests(self) -> int:
        """How many functions are asked about fresh inputs when it is graded."""
        seeded = self.task.get("seeded")
        tests = seeded.get("tests") if isinstance(seeded, dict) else None
        return len(tests) if isinstance(tests, list) else 0

    def to_task(self, above: Path) -> SweTask:
        """The task of a row, of a file in ``above``. Raises :class:`TaskProblem`."""
        folder = (above / self.repository).resolve()
        check_folder(self.id, folder)
        repository = on_python(self.id, folder, self.requires)
        after = patched(self.id, repository, self.change)
        hidden = {path: self._text(repository, path) for path in self.hidden}
        own = {
            "id": self.id,
            "repository": repository,
            "overlay": {path: after.get(path) for path in touched(self.change)},
            "hidden": hidden,
        }
        try:
            return SweTask.model_validate({**self.task, **own})
        except ValidationError as error:
            raise TaskProblem(ProblemKind.ROW, self.id, str(invalid("task", error, SweTask))) from None

    def _text(self, repository: FolderRepository, path: str) -> str:
        data = read_file(repository, path)
        if data is None:
            raise TaskProblem(ProblemKind.REPOSITORY, self.id, f"its test file {path} is missing")
        return data.decode()
