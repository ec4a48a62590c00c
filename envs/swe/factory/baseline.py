"""The green baseline of a package: the tests that pass, and passed again.

Tests that fail, are skipped or flicker are cut out of the repository, test files that cannot be read by
pytest leave it whole, until everything that is left passes twice in a row. So every test that a task's agent
or judge runs is one that the reference passes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from turnwise.envs.swe.factory.cut import function_name, without
from turnwise.envs.swe.factory.layout import Layout
from turnwise.envs.swe.factory.problems import PackageFault, PackageProblem
from turnwise.envs.swe.factory.workshop import Workshop
from turnwise.envs.swe.task import Changes, Tree
from turnwise.envs.swe.testing import TestRun
from turnwise.envs.types import Model

ROUNDS = 8
SECONDS = 120.0
"""What one run of all tests may take."""


class Baseline(Model):
    """What always passes."""

    tests: tuple[str, ...]
    """By id, in the order in which they run."""
    files: tuple[str, ...]
    """Test files with at least one of them."""
    cut: int
    """Tests and test files that were left out."""
    seconds: float
    """Of the longest run of all of them."""


async def find_baseline(layout: Layout, shop: Workshop, package: str) -> tuple[Baseline, Tree]:
    """The baseline, and the repository that is left. Raises :class:`PackageProblem`."""
    shop = shop.within(SECONDS)
    files, tests, cut, before = dict(layout.files), list(layout.tests), 0, dict[str, bool]()
    seen, why = set[str](), ""
    for _ in range(ROUNDS):
        started = time.monotonic()
        run = await shop.run(changes(layout.files, files), tests)
        seconds = time.monotonic() - started
        if run.timed_out:
            raise PackageProblem(PackageFault.HANG, package, f"its tests take over {SECONDS:g} s here")
        wrong = [name for name, passed in run.outcomes.items() if not passed]
        if before and not wrong:
            wrong = sorted(before.keys() ^ run.outcomes.keys())
        why = why or _why(run)
        if not run.outcomes or not tests:
            break
        if not wrong:
            if before == run.outcomes:
                return _found(run, cut, seconds), files
            before = run.outcomes
            continue
        gone = _leave_out(files, wrong, seen)
        tests = [path for path in tests if path in files]
        cut, before = cut + gone, {}
    raise PackageProblem(PackageFault.NO_BASELINE, package, f"none of its tests passes twice: {why}")


def changes(before: Tree, after: Tree) -> Changes:
    """What makes other files of some."""
    changed: Changes = {path: data for path, data in after.items() if before.get(path) != data}
    return changed | {path: None for path in before.keys() - after.keys()}


def _found(run: TestRun, cut: int, seconds: float) -> Baseline:
    files = dict.fromkeys(name.split("::")[0] for name in run.outcomes)
    return Baseline(tests=tuple(run.outcomes), files=tuple(files), cut=cut, seconds=round(seconds, 2))


def _leave_out(files: Tree, wrong: Sequence[str], seen: set[str]) -> int:
    """Take tests out of the files; those that were to be cut before and are still there take theirs along."""
    whole = {name.split("::")[0] for name in wrong if "::" not in name or name in seen}
    seen.update(wrong)
    if not whole:
        files.update(without(files, wrong))
        return len(set(map(function_name, wrong)))
    for path in whole & files.keys():
        del files[path]
    return len(whole)


def _why(run: TestRun) -> str:
    lines: Iterable[str] = reversed(run.output.strip().splitlines())
    found = next((line for line in lines if "Error" in line), "")
    return " ".join(found.split())[:200]
