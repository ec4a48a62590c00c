"""One bug tried out: whether the tests notice it, and the task that it makes.

The test files that speak of what is wrong run first, all of them only where one of those fails. What fails
then is cut out of what the agent sees, and the task is tried as it will be used: what is visible passes on
its base, the hidden tests come out as the task says, and its reference repair heals it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from random import Random

from turnwise.envs.swe.admission import with_fields
from turnwise.envs.swe.factory.bugs.bug import Bug, apply
from turnwise.envs.swe.factory.cut import without
from turnwise.envs.swe.factory.difficulty import difficulty
from turnwise.envs.swe.factory.failures import read_failures
from turnwise.envs.swe.factory.fresh import Oracle
from turnwise.envs.swe.factory.issue_text import issue_text, named
from turnwise.envs.swe.factory.records import Dropped, DropReason, Kept, Outcome, Prepared
from turnwise.envs.swe.factory.workshop import Workshop
from turnwise.envs.swe.formats.built import BuiltRow
from turnwise.envs.swe.grading import GradingError
from turnwise.envs.swe.patch import apply_patch, make_patch
from turnwise.envs.swe.repository import exposing
from turnwise.envs.swe.task import Changes, SweLimits, SweTask, Tree
from turnwise.envs.swe.testing import TestRun
from turnwise.envs.types import Split

logger = logging.getLogger(__name__)

BROAD = 0.5
"""The share of all tests that a bug may break."""
MOST_FAILING = 60
"""Tests that it may break: each runs in a sandbox of its own when a repair is judged."""
MOST_KEPT = 40
"""Tests of ``pass_to_pass``; where more pass, those of the failing files go first."""


class _Drop(Exception):
    def __init__(self, reason: DropReason) -> None:
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Package:
    """A package that bugs are put into."""

    prepared: Prepared
    files: Tree
    splits: dict[str, Split]
    """By module."""
    seed: int
    shop: Workshop
    oracle: Oracle
    limits: SweLimits
    """Of its tasks."""


async def attempt(package: Package, bug: Bug, parts: Sequence[frozenset[str]] = ()) -> Outcome:
    """What becomes of a bug; ``parts`` are the tests that each of its two places breaks by itself."""
    started = time.monotonic()
    try:
        task, failing = await _task(package, bug, parts)
    except _Drop as drop:
        reason = drop.reason
    except GradingError as error:
        logger.warning("%s: no task of bug %s: %s", package.prepared.package, bug.id, error)
        reason = DropReason.UNJUDGED
    else:
        folder = f"repositories/{package.prepared.package}"
        return Kept(
            package=package.prepared.package,
            bug=bug.id,
            row=BuiltRow.of(task, package.files, folder, package.prepared.requires),
            failing=failing,
            seconds=round(time.monotonic() - started, 2),
        )
    return Dropped(
        package=package.prepared.package,
        bug=bug.id,
        reason=reason,
        seconds=round(time.monotonic() - started, 2),
    )


async def _task(
    package: Package, bug: Bug, parts: Sequence[frozenset[str]]
) -> tuple[SweTask, tuple[str, ...]]:
    broken = apply(package.files[bug.path], bug.edits)
    run = await _noticed(package, bug, {bug.path: broken})
    passed = {name for name, ok in run.outcomes.items() if ok}
    tests = package.prepared.baseline.tests
    failing = tuple(name for name in tests if name not in passed)
    passing = [name for name in tests if name in passed]
    if not passing or len(failing) > min(MOST_FAILING, BROAD * len(tests)):
        raise _Drop(DropReason.BROAD)
    task = _made(package, bug, broken, run, _in_turns(failing, parts), passing)
    if exposing(task, _given(task, package.files)):
        raise _Drop(DropReason.EXPOSED)
    await _check(package, task)
    seeded = await package.oracle.seeded(task, bug, _given(task, package.files))
    return with_fields(task, seeded=seeded), failing


async def _noticed(package: Package, bug: Bug, change: Changes) -> TestRun:
    """A run of all tests, of which some fail."""
    files = package.prepared.baseline.files
    near = [path for path in files if _speaks_of(package.files[path].decode(), bug)]
    for some in (near, files):
        if not some or (some is files and len(near) == len(files)):
            continue
        run = await package.shop.run(change, some)
        if run.timed_out:
            raise _Drop(DropReason.HANG)
        if not run.ended or any("::" not in name for name in run.outcomes):
            raise _Drop(DropReason.STOPPED)
        known = [name for name in package.prepared.baseline.tests if name.split("::")[0] in some]
        if all(run.outcomes.get(name, False) for name in known):
            raise _Drop(DropReason.SURVIVED)
    return run


def _speaks_of(text: str, bug: Bug) -> bool:
    """Whether a test file names the function that is wrong, its class, or its module."""
    stem = PurePosixPath(bug.path).stem
    names = {part for name in bug.functions for part in name.split(".")} | {stem}
    return bool(names & set(re.findall(r"\w+", text)))


def _made(
    package: Package, bug: Bug, broken: bytes, run: TestRun, failing: tuple[str, ...], passing: list[str]
) -> SweTask:
    prepared, rng = package.prepared, Random(f"{package.seed} {bug.id}")
    patch = make_patch({bug.path: broken}, {bug.path: package.files[bug.path]})
    tests = {path: package.files[path] for path in prepared.baseline.files}
    failures = read_failures(run.output, failing)
    issue = issue_text(package.prepared.name, bug, patch, failures, tests, rng)
    if issue is None:
        raise _Drop(DropReason.UNTOLD)
    cut = without(package.files, failing)
    return SweTask(
        id=f"{package.prepared.name}-{bug.kind.replace('_', '-')}-{bug.id}",
        issue=issue,
        repository=package.shop.whole.repository,
        split=package.splits[bug.path],
        module=f"{package.prepared.name}:{bug.path}",
        patch=patch,
        overlay={bug.path: broken.decode()} | {path: data.decode() for path, data in cut.items()},
        hidden={path: package.files[path].decode() for path in cut},
        fail_to_pass=failing,
        pass_to_pass=_counted(failing, passing, rng),
        visible=prepared.baseline.files,
        ids="exact",
        sources=prepared.sources,
        difficulty=difficulty(
            bug, len(failing), len(prepared.baseline.tests), named=named(failures, tests, bug)
        ),
        verified=True,
        limits=package.limits,
    )


def _in_turns(failing: tuple[str, ...], parts: Sequence[frozenset[str]]) -> tuple[str, ...]:
    """The tests that fail, with one that each of two places alone breaks first."""
    first = []
    for own, other in (parts, parts[::-1]) if parts else ():
        found = [name for name in failing if name in own and name not in other]
        if not found:
            raise _Drop(DropReason.ONE_PLACE)
        first.append(found[0])
    return tuple(dict.fromkeys((*first, *failing)))


def _counted(failing: Sequence[str], passing: Sequence[str], rng: Random) -> tuple[str, ...]:
    """The tests that have to go on passing: those of the failing files first, others drawn."""
    files = {name.split("::")[0] for name in failing}
    near = [name for name in passing if name.split("::")[0] in files]
    far = [name for name in passing if name.split("::")[0] not in files]
    half = MOST_KEPT // 2
    chosen = set(rng.sample(near, min(len(near), max(half, MOST_KEPT - len(far)))))
    chosen |= set(rng.sample(far, min(len(far), MOST_KEPT - len(chosen))))
    return tuple(name for name in passing if name in chosen)


def _given(task: SweTask, files: Tree) -> Tree:
    """The repository as the agent gets it."""
    return files | {path: text.encode() for path, text in task.overlay.items() if text is not None}


async def _check(package: Package, task: SweTask) -> None:
    """The task as it will be used."""
    bench = package.shop.bench(task)
    base: Changes = {path: None if text is None else text.encode() for path, text in task.overlay.items()}
    seen = await bench.run(base, list(task.visible))
    if not seen.ended or not all(seen.outcomes.values()) or seen.outcomes.keys() & set(task.fail_to_pass):
        raise _Drop(DropReason.SHOWN)
    before = await bench.trial(base)
    if before.passed != frozenset(task.pass_to_pass):
        raise _Drop(DropReason.FLICKER)
    repair = apply_patch(task.patch, _given(task, package.files))
    after = await bench.trial(base | repair)
    if not after.resolves(task) or not after.visible:
        raise _Drop(DropReason.UNHEALED)
