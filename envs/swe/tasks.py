"""``swe/tasks``: repairs from a file, a folder or a data set of the user's own.

``swe/tasks?path=tasks/`` reads folders, ``swe/tasks?path=rows.jsonl&repositories=checkouts`` rows whose
repositories are folders; others are looked for in the store of images.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from turnwise.envs.errors import UsageError
from turnwise.envs.registry import register
from turnwise.envs.swe.environment import SweEnv
from turnwise.envs.swe.formats.load import load_tasks
from turnwise.envs.swe.formats.places import Places
from turnwise.envs.tasks import TaskSet, check_split
from turnwise.envs.types import SPLITS, Model, Task


class TasksOptions(Model):
    """Where the tasks are."""

    path: str = Field(
        default="",
        description="a .jsonl, .json or .parquet file, a folder, or hub:OWNER/NAME; several with commas",
    )
    format: str | None = Field(
        default=None,
        description="swe-bench, swe-gym, r2e-gym, swe-smith, turnwise or built; told by the columns",
    )
    repositories: str | None = Field(
        default=None, description="a folder with the files of each row's base commit, by the row's id"
    )


@register
class SweTasks(SweEnv):
    """Repairs from a file, a folder or a data set."""

    name = "swe/tasks"
    Options = TasksOptions
    options: TasksOptions

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split, which may be none. Raises ``UsageError`` for a path that holds no task."""
        checked = check_split(split)
        if not self.options.path:
            raise UsageError("swe/tasks: say where the tasks are, as in swe/tasks?path=FOLDER")
        places = self._places()
        loaded = [load_tasks(path, kind=self.options.format, places=places) for path in self._paths()]
        listed = [task for one in loaded for task in one.tasks if task.split == checked]
        base = SPLITS.index(checked) << 32

        def make(index: int, env: str) -> Task:
            return listed[index].task(env, base + index)

        return TaskSet(checked, len(listed), make)

    def _paths(self) -> list[str]:
        return [path for path in self.options.path.split(",") if path]

    def _places(self) -> Places:
        if self.options.repositories is None:
            return Places()
        folder = Path(self.options.repositories)
        if not folder.is_dir():
            raise UsageError(f"swe/tasks: {str(folder)!r} is no folder")
        return Places(folder)
