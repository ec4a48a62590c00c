"""A plain folder: ``task.yaml``, the repository in ``repo/``, the hidden tests in ``tests/``.

``patch.diff`` beside them holds the reference repair. ``tests/`` is laid over the repository when a repair is
judged, so ``tests/pkg/test_a.py`` becomes ``pkg/test_a.py`` there.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from turnwise.envs.errors import UsageError, invalid
from turnwise.envs.swe.formats.places import check_patch
from turnwise.envs.swe.problems import ProblemKind, TaskProblem
from turnwise.envs.swe.repository import check_folder
from turnwise.envs.swe.task import FolderRepository, Runner, SweLimits, SweTask
from turnwise.envs.types import Model, Split


class TaskFile(Model):
    """``task.yaml``; what each field means is said in :class:`~turnwise.envs.swe.task.SweTask`."""

    id: str | None = None
    """The folder's name where it is left out."""
    issue: str
    split: Split = "test"
    module: str = ""
    fail_to_pass: tuple[str, ...] = Field(min_length=1)
    pass_to_pass: tuple[str, ...] = ()
    visible: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    runner: Runner = "pytest"
    weights: dict[str, float] = Field(default_factory=dict)
    difficulty: float | None = None
    limits: SweLimits = SweLimits()


def is_task(folder: Path) -> bool:
    """Whether a folder is one of these."""
    return (folder / "task.yaml").is_file()


def read_folder(folder: Path) -> SweTask:
    """The task of a folder. Raises :class:`TaskProblem`."""
    name = folder.name
    try:
        fields = TaskFile.model_validate(yaml.safe_load((folder / "task.yaml").read_text(encoding="utf-8")))
    except ValidationError as error:
        message = str(invalid("task.yaml", error, TaskFile))
        raise TaskProblem(ProblemKind.ROW, name, message) from None
    except (yaml.YAMLError, UnicodeDecodeError, UsageError) as error:
        raise TaskProblem(ProblemKind.ROW, name, f"task.yaml: {' '.join(str(error).split())}") from None
    name = fields.id or name
    check_folder(name, folder / "repo")
    repository = FolderRepository(path=str((folder / "repo").resolve()))
    if not (folder / "patch.diff").is_file():
        raise TaskProblem(ProblemKind.PATCH, name, "there is no patch.diff with the reference repair")
    patch = (folder / "patch.diff").read_text(encoding="utf-8")
    check_patch(name, repository, patch)
    files = sorted(path for path in (folder / "tests").rglob("*") if path.is_file())
    hidden = {path.relative_to(folder / "tests").as_posix(): path for path in files}
    return SweTask(
        **fields.model_dump(exclude={"id"}),
        id=name,
        repository=repository,
        patch=patch,
        hidden={path: file.read_text(encoding="utf-8") for path, file in hidden.items()},
    )
