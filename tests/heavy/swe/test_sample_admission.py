"""What the sample was admitted with is what admission finds."""

from __future__ import annotations

import pytest

from turnwise.envs.swe.admission import admit, machines_for, trees
from turnwise.envs.swe.sample.packages import bare_tasks, packaged_tasks
from turnwise.envs.swe.task import SweTask
from turnwise.sandbox import backend

ADMITTED = {task.id: task for task in packaged_tasks()}
CHECKED = [task for package in ("spans", "ledger") for task in bare_tasks() if task.sources == (package,)][
    ::4
]


@pytest.mark.parametrize("task", CHECKED, ids=lambda task: task.id)
async def test_admission_is_repeated(task: SweTask) -> None:
    base, reference = await trees(task)
    async with backend("namespaces").running() as running:
        found = await admit(task, base, reference, machines_for(task, running))
    known = ADMITTED[task.id]
    assert found.calibration is not None
    assert known.calibration is not None
    assert (found.assurance, found.calibration.digest) == (known.assurance, known.calibration.digest)
    assert found.calibration.collected == known.calibration.collected
    assert found.calibration.surface == known.calibration.surface
