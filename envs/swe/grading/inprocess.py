"""The fallback: tests that must share a process with the code they test.

Inside one interpreter nothing can be kept from that code, so no single result is believed. Every test runs
alone in a sandbox, and so do its *decoys*, which differ by one expectation and by nothing that the code
could tell beforehand. Full marks need every test passed and every decoy failed in the way the reference
fails it. Code that reads the expectation and recognises a plausible one is not caught: such a task's class
says so.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from turnwise.envs.swe.grading.decoys import decoys
from turnwise.envs.swe.grading.machines import (
    Machines,
    import_roots,
    program_files,
    repository,
)
from turnwise.envs.swe.grading.rules import Tree
from turnwise.envs.swe.grading.suite import Calibration, Decoy, Suite, census
from turnwise.envs.swe.grading.verdict import Verdict, verdict
from turnwise.envs.swe.pytest_files import COMPILE, SITE, pytest_files
from turnwise.sandbox.contract import TOOLING, Snapshot

TESTS = f"{TOOLING}/tests"
DECOYS = 2
"""Of each test, where its form allows so many."""
AT_ONCE = 4
"""Sandboxes at the same time."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one sandbox has said of its test."""

    passed: bool
    why: str
    """The name of the exception that failed it."""
    detail: str = ""
    collected: tuple[str, ...] = ()
    seeded: tuple[str, ...] = ()


async def grade(
    suite: Suite, base: Tree, source: Tree, seeds: Mapping[str, int], *, machines: Machines
) -> Verdict:
    """The verdict on source: see :func:`~turnwise.envs.swe.grading.grade.grade`.

    Decoys run only when every test has passed: wrong code fails them in ways of its own.
    """
    began, known = time.monotonic(), suite.calibrated
    outcomes = await _run(suite, base, source, [(name, None) for name in suite.ids], seeds, machines)
    notes: set[str] = set()
    if all(outcome.passed for outcome in outcomes):
        runs = [(decoy.test, decoy) for decoy in known.decoys]
        for decoy, outcome in zip(
            known.decoys, await _run(suite, base, source, runs, seeds, machines), strict=True
        ):
            if outcome.passed or outcome.why != decoy.why:
                notes.add(f"a decoy of {decoy.test} did not fail as it should")
    names = {name for outcome in outcomes for name in outcome.collected}
    return verdict(
        suite,
        {name: outcome.passed for name, outcome in zip(suite.ids, outcomes, strict=True)},
        {name: outcome.detail for name, outcome in zip(suite.ids, outcomes, strict=True)},
        notes=sorted(notes),
        complete=set(census(names)) == set(known.collected),
        seconds=time.monotonic() - began,
    )


async def calibration(
    suite: Suite, base: Tree, source: Tree, seeds: Mapping[str, int], *, machines: Machines
) -> Calibration:
    """What the reference shows: the tests there are, and the decoys that it fails."""
    rng = random.Random(suite.digest)
    made: list[Decoy] = []
    for name in suite.ids:
        file, _, test = name.partition("::")
        text = suite.files[file].decode()
        made += [Decoy(test=name, file=file, source=one, why="") for one in decoys(text, test, rng, DECOYS)]
    files = sorted({name.partition("::")[0] for name in suite.ids})
    looks: list[tuple[str, Decoy | None]] = [(file, None) for file in files]
    runs = looks + [(decoy.test, decoy) for decoy in made]
    outcomes = await _run(suite, base, source, runs, seeds, machines)
    collected, seeded = (
        tuple(name for outcome in outcomes[: len(looks)] for name in getattr(outcome, what))
        for what in ("collected", "seeded")
    )
    kept = [
        decoy.model_copy(update={"why": outcome.why})
        for decoy, outcome in zip(made, outcomes[len(looks) :], strict=True)
        if not outcome.passed and outcome.why
    ]
    return Calibration(digest="", collected=collected, seeded=seeded, decoys=tuple(kept))


async def _run(
    suite: Suite,
    base: Tree,
    source: Tree,
    runs: Sequence[tuple[str, Decoy | None]],
    seeds: Mapping[str, int],
    machines: Machines,
) -> list[Outcome]:
    turn = asyncio.Semaphore(AT_ONCE)
    files = repository(base, source, suite.rules) | program_files("bootstrap.py", "inside.py")

    async def one(name: str, decoy: Decoy | None, snapshot: Snapshot) -> Outcome:
        async with turn:
            return await _one(suite, name, decoy, snapshot, seeds, machines)

    async with (
        machines.prepared(files | await pytest_site(machines)) as snapshot,
        asyncio.TaskGroup() as tasks,
    ):
        started = [tasks.create_task(one(name, decoy, snapshot)) for name, decoy in runs]
    return [task.result() for task in started]


async def _one(
    suite: Suite,
    name: str,
    decoy: Decoy | None,
    snapshot: Snapshot,
    seeds: Mapping[str, int],
    machines: Machines,
) -> Outcome:
    file = name.partition("::")[0]
    tests = {f"{TESTS}/{path}": data for path, data in suite.files.items() if not _other_test(path, file)}
    if decoy is not None:
        tests[f"{TESTS}/{file}"] = decoy.source.encode()
    orders = {
        "tests": TESTS, "roots": import_roots(suite.rules), "site": SITE, "seeds": seeds, "id": name,
        "files": [file],
    }  # fmt: skip
    async with await machines.backend.fork(snapshot) as sandbox:
        await sandbox.write_tree(tests | {f"{TESTS}/orders": json.dumps(orders).encode()})
        command = [*machines.python, f"{TOOLING}/bootstrap.py", "inside", f"{TESTS}/orders"]
        result = await sandbox.exec(command, cwd="/", timeout=suite.bounds.test_seconds)
    return _read(result.stdout)


def _other_test(path: str, file: str) -> bool:
    """Whether a file is one of tests that this one does not need: nothing more is there to be read."""
    return path != file and PurePosixPath(path).name.startswith("test_")


def _read(said: bytes) -> Outcome:
    """What a sandbox printed, be it what it may."""
    try:
        data: Any = json.loads(said)
        passed = data["phases"] == {"setup": "passed", "call": "passed", "teardown": "passed"}
        names = [tuple(map(str, data[key])) for key in ("collected", "seeded")]
        return Outcome(passed, str(data["why"]), str(data["detail"]), *names)
    except (ValueError, LookupError, TypeError, RecursionError):
        return Outcome(False, "", "the test process left without a report")


_sites: dict[tuple[int, tuple[str, ...]], dict[str, bytes]] = {}


async def pytest_site(machines: Machines) -> dict[str, bytes]:
    """pytest as sandboxes have it, compiled by their interpreter before any code under test is there."""
    key = (hash(machines.spec), machines.python)
    if key not in _sites:
        async with await machines.backend.create(machines.spec) as sandbox:
            await sandbox.write_tree(pytest_files())
            await sandbox.exec([*machines.python, *COMPILE, SITE], timeout=120)
            found = await sandbox.read_tree(SITE)
        _sites[key] = {f"{SITE}/{path}": data for path, data in found.items()}
    return _sites[key]
