"""The committed tasks of the factory: solved by their references, and not by doing nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from turnwise.envs.local import LocalEnvs
from turnwise.envs.swe.admission import trees
from turnwise.envs.swe.formats.load import load_tasks
from turnwise.envs.swe.hand_in import judged_by
from turnwise.envs.swe.patch import apply_patch
from turnwise.envs.swe.task import SweTask
from turnwise.envs.types import Grade, call

FOLDER = Path(__file__).parents[3] / "examples/inflection"
TASKS = load_tasks(str(FOLDER)).tasks


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
async def test_the_reference_scores_and_nothing_does_not(task: SweTask) -> None:
    base, _ = await trees(task)
    assert judged_by(task, base)
    assert task.assurance == "split"
    async with LocalEnvs(backend="namespaces", capacity=4) as envs:
        for repaired in (True, False):
            async with envs.open("swe/tasks", task=task.task("swe/tasks", 0)) as session:
                await session.reset()
                changes = apply_patch(task.patch, base) if repaired else {}
                for path, data in changes.items():
                    await session.env.sandbox.write(f"/workspace/{path}", data or b"")
                await session.step(call("shell", command="true"))
                record = (await session.step(call("submit"))).record
            assert record is not None
            assert isinstance(record.grade, Grade)
            assert (record.grade.score, record.grade.assurance) == (float(repaired), "split")


def test_it_is_small_and_brings_its_licence() -> None:
    assert len(TASKS) == 8
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 200_000
    assert "Permission is hereby granted" in (FOLDER / "repositories/inflection-0.5.1/LICENSE").read_text()
    assert any(task.seeded is not None for task in TASKS)
    assert any(" " in name for task in TASKS for name in task.judged), "ids of parameters are whole"
