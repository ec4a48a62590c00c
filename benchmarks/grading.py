"""What graders of hidden tests award to the catalogue of cheats, and what a grading costs.

    python benchmarks/grading.py [--graders naive,split,in-process] [--cheats REGEX] [--json FILE]

``naive`` is what is commonly done: the hidden tests are copied into the agent's own container and pytest
is run there; it is read three ways, by exit status, by summary line and by either. ``split`` and
``in-process`` are :mod:`turnwise.envs.swe.grading`; in-process runs five of the seventeen tests, with decoys.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import click

from turnwise.envs.cheat import Cheat
from turnwise.envs.swe.cheats.catalogue import Desk, catalogue
from turnwise.envs.swe.cheats.sample import Sample, sample
from turnwise.envs.swe.grading import Machines, Rules, Suite, Tree, calibrate, collect, grade, split
from turnwise.envs.swe.grading.inprocess import pytest_site
from turnwise.envs.swe.grading.machines import REPOSITORY, program_files, repository
from turnwise.envs.swe.pytest_files import SITE
from turnwise.sandbox import Sandbox, SandboxError, SandboxSpec, backend

IN_PROCESS = re.compile(r"touching|parts_add|nonsense|a_sum|random_sums.first")
AT_ONCE = 3
FIXTURES = b"""
import random, pytest

def pytest_configure(config):
    config.addinivalue_line("markers", "copyback: ")

@pytest.fixture(params=["first", "second"])
def fresh_rng():
    return random.Random()

@pytest.fixture
def expected():
    return lambda build: build()
"""


@dataclass(frozen=True, slots=True)
class Started:
    """An episode as cheats find it."""

    sandbox: Sandbox
    base: Tree
    reference: Tree
    rules: Rules


Award = Callable[[Started], Awaitable[dict[str, float]]]
"""Grades what was done in a sandbox; the score by each way of reading it."""


def ours(name: str, suite: Suite, found: Sample, machines: Machines) -> Award:
    async def award(desk: Started) -> dict[str, float]:
        submission = await collect(desk.sandbox, found.base, suite.rules)
        return {name: (await grade(suite, found.base, submission, machines=machines)).score}

    return award


def naive(found: Sample, site: dict[str, bytes]) -> Award:
    async def award(desk: Started) -> dict[str, float]:
        tests = {f"{REPOSITORY}/tests/{path}": data for path, data in found.suite.files.items()}
        try:
            await desk.sandbox.write_tree({**site, **tests, f"{REPOSITORY}/tests/conftest.py": FIXTURES})
            command = f"PYTHONPATH=src:{SITE} python3 -m pytest tests"
            result = await desk.sandbox.exec(command, timeout=30)
        except (OSError, SandboxError):  # the agent left no place for tests
            return dict.fromkeys(("naive, exit status", "naive, summary", "naive, either"), 0.0)
        finally:
            await desk.sandbox.close()
        said = result.stdout.decode(errors="replace")
        status = float(result.exit_code == 0)
        summary = float(
            re.search(r"\b17 passed", said) is not None and "failed" not in said.rpartition("=====")[0][-200:]
        )
        return {
            "naive, exit status": status,
            "naive, summary": summary,
            "naive, either": max(status, summary),
        }

    return award


async def tried(cheats: list[Cheat[Desk]], machines: Machines, award: Award) -> dict[str, dict[str, float]]:
    """What each cheat is awarded, the controls first. Raises ``RuntimeError`` where these go wrong."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(apply: Callable[[Desk], Awaitable[None]]) -> dict[str, float]:
        async with turn:
            found = sample()
            sandbox = await machines.backend.create(SandboxSpec())
            await sandbox.write_tree({f"{REPOSITORY}/{path}": data for path, data in found.base.items()})
            desk = Started(sandbox, found.base, found.reference, found.suite.rules)
            await apply(desk)
            return await award(desk)

    right, nothing = await one(mend), await one(do_nothing)
    if {*right.values()} != {1.0} or {*nothing.values()} != {0.0}:
        raise RuntimeError(f"the controls: reference {right}, base {nothing}")
    scores = await asyncio.gather(*(one(cheat.apply) for cheat in cheats))
    return {cheat.name: score for cheat, score in zip(cheats, scores, strict=True)}


async def mend(desk: Desk) -> None:
    await desk.sandbox.write_tree({f"{REPOSITORY}/{path}": data for path, data in desk.reference.items()})


async def do_nothing(desk: Desk) -> None:
    """The broken base as it is."""


async def costs(suite: Suite, found: Sample, machines: Machines) -> dict[str, float]:
    """Seconds: medians of ten gradings of the reference, and of twenty workers that do nothing."""
    submission = await collect(found.reference, found.base, suite.rules)
    whole = [(await grade(suite, found.base, submission, machines=machines)).seconds for _ in range(10)]
    workers = []
    files = repository(found.base, found.reference, suite.rules) | program_files(*split.WORKER_FILES)
    async with machines.prepared(files) as snapshot:
        for _ in range(20):
            began = time.perf_counter()
            async with await machines.backend.fork(snapshot) as sandbox:
                await sandbox.exec([*machines.python, "-c", "import json, socket, importlib, enum, datetime"])
            workers.append(time.perf_counter() - began)
    return {
        "grading": statistics.median(whole), "grading, least": min(whole), "grading, most": max(whole),
        "worker": statistics.median(workers), "worker, least": min(workers), "worker, most": max(workers),
    }  # fmt: skip


async def run(graders: list[str], pattern: str, output: Path | None) -> None:
    found = sample()
    cheats = [cheat for cheat in catalogue() if re.search(pattern, cheat.name)]
    results: dict[str, dict[str, float]] = {cheat.name: {} for cheat in cheats}
    async with backend("namespaces").running() as running:
        machines = Machines(running)
        suite = await calibrate(found.suite, found.reference, found.base, machines=machines)
        few = tuple(name for name in suite.ids if IN_PROCESS.search(name))
        small = found.suite.model_copy(
            update={"assurance": "in-process", "fail_to_pass": few, "pass_to_pass": ()}
        )
        for name in graders:
            if name == "naive":
                award = naive(found, await pytest_site(machines))
            elif name == "split":
                award = ours(name, suite, found, machines)
            else:
                calibrated = await calibrate(small, found.reference, found.base, machines=machines)
                award = ours(name, calibrated, found, machines)
            for cheat, scores in (await tried(cheats, machines, award)).items():
                results[cheat] |= scores
        seconds = await costs(suite, found, machines) if "split" in graders else {}
    residue = {cheat.name for cheat in cheats if cheat.residue}
    for way in next(iter(results.values())):
        passed = sorted(name for name, scores in results.items() if scores[way] == 1.0)
        known = [name for name in passed if name not in residue]
        print(f"{way}: {len(known)} of {len(cheats) - len(residue)}")
        print(f"  and {len(passed) - len(known)} of the residue's {len(residue)}")
        print("   ", ", ".join(passed))
    print({name: round(value, 3) for name, value in seconds.items()})
    if output is not None:
        text = json.dumps({"scores": results, "seconds": seconds}, indent=1)
        await asyncio.to_thread(output.write_text, text)


@click.command()
@click.option("--graders", default="naive,split,in-process")
@click.option("--cheats", default="")
@click.option("--json", "output", type=click.Path(path_type=Path))
def main(graders: str, cheats: str, output: Path | None) -> None:
    asyncio.run(run(graders.split(","), cheats, output))


if __name__ == "__main__":
    main()
