"""Admits the sample's tasks anew, after a change of theirs: ``python -m turnwise.envs.swe.sample.admit``.

Each is calibrated with its reference and its broken base; ``admitted.json`` beside this file has the result.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from turnwise.envs.swe.admission import admit, machines_for, trees
from turnwise.envs.swe.sample.packages import bare_tasks
from turnwise.sandbox.backends import backend

ADMITTED = Path(__file__).with_name("admitted.json")


async def main() -> None:
    """Write the file, and a line for each task."""
    found = {}
    async with backend().running() as running:
        for task in bare_tasks():
            base, reference = await trees(task)
            admitted = await admit(task, base, reference, machines_for(task, running))
            print(f"{task.id}: {admitted.assurance}", flush=True)
            found[task.id] = admitted.model_dump(mode="json", include={"assurance", "calibration", "judged"})
    lines = [
        f"{json.dumps(name)}: {json.dumps(known, separators=(',', ':'))}" for name, known in found.items()
    ]
    ADMITTED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
