"""Tasks of a path: of which format they are, what is read, and what had to be left out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from turnwise.envs.errors import UsageError, invalid, unknown
from turnwise.envs.swe.formats import built
from turnwise.envs.swe.formats.built import BuiltRow
from turnwise.envs.swe.formats.files import HUB, read_rows
from turnwise.envs.swe.formats.folder import is_task, read_folder
from turnwise.envs.swe.formats.places import Places, check_patch
from turnwise.envs.swe.formats.r2e_gym import R2EGymRow
from turnwise.envs.swe.formats.swe_bench import SweBenchRow
from turnwise.envs.swe.formats.swe_gym import SweGymRow
from turnwise.envs.swe.formats.swe_smith import SweSmithRow
from turnwise.envs.swe.problems import ProblemKind, TaskProblem
from turnwise.envs.swe.repository import check_folder
from turnwise.envs.swe.task import FolderRepository, SweTask

logger = logging.getLogger(__name__)

MOST_TOLD = 20
"""Skipped tasks that the log names one by one."""


ROWS: dict[str, type[BaseModel]] = {
    "swe-bench": SweBenchRow,
    "swe-gym": SweGymRow,
    "r2e-gym": R2EGymRow,
    "swe-smith": SweSmithRow,
}
TURNWISE = "turnwise"
"""Rows that are tasks as they are."""
BUILT = "built"
"""Rows that ``turnwise tasks build`` writes."""
OWN: dict[str, type[SweTask | BuiltRow]] = {TURNWISE: SweTask, BUILT: BuiltRow}
FORMATS = (*ROWS, *OWN)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a path holds."""

    tasks: tuple[SweTask, ...]
    skipped: tuple[TaskProblem, ...]


def load_tasks(path: str, *, kind: str | None = None, places: Places | None = None) -> Loaded:
    """The tasks of a file, a folder or a data set; without ``kind`` it is told by the columns.

    Rows that cannot be tasks are skipped, with the reason in the result and in the log. Raises
    ``UsageError`` for a path or a format that does not exist, and where not one task is left.
    """
    if kind is not None and kind not in FORMATS:
        raise unknown("format", kind, FORMATS)
    if not path.startswith(HUB) and not Path(path).exists():
        raise UsageError(f"tasks {path!r}: there is no such file or folder")
    rows = Path(path, built.FILE)
    if not path.startswith(HUB) and rows.is_file():
        path = str(rows)
    return _load(path, kind, places or Places(), 0 if path.startswith(HUB) else Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _load(path: str, kind: str | None, places: Places, _changed: int) -> Loaded:
    tasks: dict[str, SweTask] = {}
    skipped = []
    for candidate in _candidates(path):
        try:
            task = _task(candidate, path, kind, places)
            if task.id in tasks:
                raise TaskProblem(ProblemKind.ROW, task.id, "another task has the same id")
            tasks[task.id] = task
        except TaskProblem as problem:
            skipped.append(problem)
    for reason in skipped[:MOST_TOLD]:
        logger.warning("Skipped %s", reason)
    if skipped:
        logger.warning("%d of %d tasks of %s were skipped", len(skipped), len(skipped) + len(tasks), path)
    if not tasks:
        why = f"; the first of {len(skipped)}: {skipped[0]}" if skipped else ""
        raise UsageError(f"tasks {path!r}: it holds none that can be used{why}")
    return Loaded(tuple(tasks.values()), tuple(skipped))


def _candidates(path: str) -> Iterator[Path | Mapping[str, Any]]:
    """Folders of tasks, or rows."""
    folder = Path(path)
    if path.startswith(HUB) or not folder.is_dir():
        yield from read_rows(path)
    elif is_task(folder):
        yield folder
    else:
        yield from sorted(below for below in folder.iterdir() if is_task(below))


def _task(candidate: Path | Mapping[str, Any], path: str, kind: str | None, places: Places) -> SweTask:
    if isinstance(candidate, Path):
        return read_folder(candidate)
    name = str(candidate.get("instance_id") or candidate.get("id") or candidate.get("commit_hash") or "?")
    kind = kind or recognise(candidate)
    if kind is None:
        known = ", ".join(FORMATS)
        raise TaskProblem(ProblemKind.ROW, name, f"its columns are of no known format ({known})")
    model = {**ROWS, **OWN}[kind]
    try:
        row: Any = model.model_validate(candidate)
    except ValidationError as error:
        raise TaskProblem(ProblemKind.ROW, name, str(invalid(kind, error, model))) from None
    except ValueError as error:
        raise TaskProblem(ProblemKind.ROW, name, f"{kind}: {error}") from None
    match row:
        case SweTask():
            return _own(row, Path(path))
        case BuiltRow():
            return row.to_task(Path(path).parent)
    task: SweTask = row.to_task(places)
    return task


def recognise(row: Mapping[str, Any]) -> str | None:
    """The format of a row, by its columns."""
    columns = row.keys()
    if {"repository", "fail_to_pass"} <= columns:
        return TURNWISE
    if {"change", "task"} <= columns:
        return BUILT
    if {"docker_image", "expected_output_json"} <= columns:
        return "r2e-gym"
    if {"image_name", "FAIL_TO_PASS"} <= columns and "test_patch" not in columns:
        return "swe-smith"
    if {"test_patch", "FAIL_TO_PASS"} <= columns:
        return "swe-bench" if "environment_setup_commit" in columns else "swe-gym"
    return None


def _own(task: SweTask, file: Path) -> SweTask:
    """A task of our own format; its folder may be given relative to the file."""
    if isinstance(task.repository, FolderRepository):
        folder = (file.parent / task.repository.path).resolve()
        check_folder(task.id, folder)
        task = task.model_copy(update={"repository": FolderRepository(path=str(folder), at=task.at)})
    check_patch(task.id, task.repository, task.patch)
    return task
