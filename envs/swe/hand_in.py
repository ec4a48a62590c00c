"""What is handed in, and the verdict on it: the one place where a submission meets the hidden tests.

The agent's processes end, its tree is read as bytes, and of that only what a repair may change is taken
over to a fresh copy of the repository. A test that did not run, was skipped or went missing has not passed.

The code under test shares a process with the tests here, which a hostile submission can make use of.
"""

from __future__ import annotations

from turnwise.envs.swe.bench import Bench
from turnwise.envs.swe.repository import read_files
from turnwise.envs.swe.task import Changes, SweTask, Tree
from turnwise.sandbox.contract import Sandbox

MOST_CHANGED = 2_000


async def collect(sandbox: Sandbox, task: SweTask, base: Tree) -> Changes | None:
    """What the agent changed of the sources, read when none of its processes is left; None where that is no
    repair, whatever it is."""
    try:
        files = await read_files(sandbox, task.at)
    except OSError:
        return None
    changes: Changes = {path: data for path, data in files.items() if base.get(path) != data}
    changes |= {path: None for path in base.keys() - files.keys()}
    repair = {path: data for path, data in changes.items() if task.is_source(path)}
    return repair if len(repair) <= MOST_CHANGED else None


async def grade(bench: Bench, repair: Changes) -> float:
    """1 where every test that counts passes, else 0."""
    trial = await bench.trial(repair)
    return float(trial.resolves(bench.task))
