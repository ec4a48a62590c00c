"""What stays behind when a grader is killed: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

OWNER = """
import asyncio
from turnwise.envs.swe.cheats.sample import sample
from turnwise.envs.swe.grading import Machines, calibrate
from turnwise.sandbox import backend

async def main():
    found = sample()
    async with backend("namespaces").running() as running:
        await calibrate(found.suite, found.reference, found.base, machines=Machines(running))

asyncio.run(main())
"""


def test_no_hidden_test_stays_behind_a_killed_owner(tmp_path: Path) -> None:
    def tests() -> list[Path]:
        return list(tmp_path.glob("turnwise-judge-*/tests"))

    env = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", OWNER], env=env) as owner:
        wait_until(tests)
        owner.kill()
    wait_until(lambda: not tests())


def wait_until(holds: Callable[[], object]) -> None:
    """Look again and again, for two minutes at most."""
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
