"""The whole way from the names of packages to a folder of tasks.

``tasks.jsonl`` has the tasks, ``repositories/`` a folder for each package, ``report.json`` what was tried and
what became of it, ``progress.jsonl`` what a build that was interrupted goes on from.

Packages are made ready first, since the splits depend on all of them. Then their bugs are tried, some at once
and taken in their order, so that the number of jobs changes nothing but the time. Last, the grader is
calibrated with each task.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import TypeAlias

from turnwise.envs.source import SandboxSource
from turnwise.envs.swe.admission import admit, machines_for, trees
from turnwise.envs.swe.factory.bugs.bug import Bug
from turnwise.envs.swe.factory.bugs.find import module_bugs, ordered_bugs
from turnwise.envs.swe.factory.fresh import Oracle
from turnwise.envs.swe.factory.installing import make_image
from turnwise.envs.swe.factory.prepare import limits_for, prepare, read_tree
from turnwise.envs.swe.factory.problems import PackageFault, PackageProblem
from turnwise.envs.swe.factory.records import Admitted, Kept, Order, Outcome, Prepared, Records
from turnwise.envs.swe.factory.report import BuildReport, Refused, counted, package_report, seeded
from turnwise.envs.swe.factory.shelf import Parts, Shelf
from turnwise.envs.swe.factory.splits import allot
from turnwise.envs.swe.factory.trial import Package, attempt
from turnwise.envs.swe.factory.workshop import workshop
from turnwise.envs.swe.formats import built
from turnwise.envs.swe.formats.built import BuiltRow
from turnwise.envs.swe.grading import GradingError
from turnwise.envs.swe.task import Tree
from turnwise.envs.types import Split

REPOSITORIES = "repositories"
REPORT = "report.json"
PAIRS = 0.2
"""The share of a package's tasks that are bugs in two places."""
TRIED = 12
"""Bugs tried for each task that is wanted, at most."""
AHEAD = 4
"""Bugs begun before the first of them is known, for each job."""
LINE_SECONDS = 10.0
"""Between two lines on how far it is."""
TEST_SECONDS = (30.0, 60.0, 120.0)
"""Of a run of a task's tests: the first of these that is ten times as long as the baseline took."""
Candidates: TypeAlias = Iterator[tuple[Bug, Parts]]


class Build:
    """One order carried out in a folder. Raises ``UsageError`` where that holds another."""

    def __init__(
        self,
        order: Order,
        out: Path,
        sandboxes: SandboxSource,
        *,
        jobs: int,
        say: Callable[[str], None],
        admits: bool = False,
    ) -> None:
        """``admits``: calibrate the grader with each task, too."""
        self._order, self._out, self._sandboxes, self._say = order, out, sandboxes, say
        self._admits = admits
        self._jobs, self._slots = jobs, asyncio.Semaphore(jobs)
        self._records = Records(out, order)
        self._shelves: list[tuple[Prepared, Shelf]] = []
        self._refused: list[Refused] = []
        self._spoke = time.monotonic()

    async def run(self) -> BuildReport:
        """Build what is missing. What was made is kept however this ends."""
        finished = False
        try:
            ready = await self._prepared()
            splits = await asyncio.to_thread(self._splits, ready)
            for prepared, files in ready:
                await self._fill(self._package(prepared, files, splits))
            if self._admits:
                await self._admit()
            finished = True
        finally:
            self._write()
            report = self._report(finished)
            _replace(self._out / REPORT, report.model_dump_json(indent=2) + "\n")
        return report

    # -- packages

    async def _prepared(self) -> list[tuple[Prepared, Tree]]:
        ready: dict[str, tuple[Prepared, Tree]] = {}
        for source in self._order.sources:
            try:
                prepared = self._records.prepared.get(source)
                if prepared is None:
                    prepared = await prepare(
                        source, self._order.beside, self._out / REPOSITORIES, self._sandboxes
                    )
                    self._records.add(prepared)
                else:
                    await asyncio.to_thread(make_image, prepared.requires)
                if prepared.package in ready:
                    raise PackageProblem(PackageFault.ARCHIVE, source, f"{prepared.package} is there already")
            except PackageProblem as problem:
                self._refused.append(Refused(source=source, fault=problem.fault, message=str(problem)))
                self._say(f"left out {problem}")
                continue
            folder = self._out / REPOSITORIES / prepared.package
            ready[prepared.package] = prepared, await asyncio.to_thread(read_tree, folder)
            found = prepared.baseline
            self._say(f"{prepared.package}: {len(found.tests)} tests pass, {found.cut} left out")
        return list(ready.values())

    def _splits(self, ready: list[tuple[Prepared, Tree]]) -> dict[str, Split]:
        """Of every module, by project and path; a package's modules share its tasks by their bugs."""
        weights = {}
        for prepared, files in ready:
            counts = Counter(
                {path: sum(1 for _ in module_bugs(path, files[path])) for path in prepared.modules}
            )
            for path, count in counts.items():
                weights[f"{prepared.name}:{path}"] = count / max(1, counts.total())
        return allot(weights)

    def _package(self, prepared: Prepared, files: Tree, splits: dict[str, Split]) -> Package:
        seconds = prepared.baseline.seconds
        enough = next((each for each in TEST_SECONDS if each >= 10 * seconds), TEST_SECONDS[-1])
        limits = limits_for(files, enough)
        folder = self._out / REPOSITORIES / prepared.package
        shop = workshop(folder.resolve(), prepared.requires, self._sandboxes, limits).within(
            max(10.0, 6 * seconds)
        )
        return Package(
            prepared=prepared,
            files=files,
            splits={path: splits[f"{prepared.name}:{path}"] for path in prepared.modules},
            seed=self._order.seed,
            shop=shop,
            oracle=Oracle(shop, prepared.calls, prepared.sources, self._order.seed),
            limits=limits,
        )

    # -- tasks

    async def _fill(self, package: Package) -> None:
        """Single bugs first; then pairs of those; then single ones again, where pairs were too few."""
        shelf, prepared, wanted = Shelf(), package.prepared, self._order.tasks
        self._shelves.append((prepared, shelf))
        rng = Random(f"{package.seed} {prepared.name}")
        modules = {path: package.files[path] for path in prepared.modules}
        singles: Candidates = islice(((bug, ()) for bug in ordered_bugs(modules, rng)), TRIED * wanted)
        singles = await self._try(package, singles, shelf, wanted - round(wanted * PAIRS))
        pairs = islice(shelf.pairs(rng), TRIED * round(wanted * PAIRS))
        await self._try(package, pairs, shelf, wanted)
        await self._try(package, singles, shelf, wanted)
        self._say(
            f"{prepared.package}: {len(shelf.kept)} tasks of {shelf.dropped.total() + len(shelf.kept)} bugs"
        )

    async def _try(self, package: Package, stream: Candidates, shelf: Shelf, wanted: int) -> Candidates:
        """Try bugs until enough are kept; what is left of them."""
        while len(shelf.kept) < wanted and (some := list(islice(stream, AHEAD * self._jobs))):
            taken = 0
            async with asyncio.TaskGroup() as tasks:
                running = [
                    None if shelf.crowded(bug) else tasks.create_task(self._attempt(package, bug, parts))
                    for bug, parts in some
                ]
            for (bug, _), task in zip(some, running, strict=True):
                if len(shelf.kept) < wanted:
                    shelf.take(bug, None if task is None else task.result())
                    taken += 1
            stream = chain(some[taken:], stream)
            self._write()
            tried = len(shelf.kept) + shelf.dropped.total()
            self._tell(f"{package.prepared.package}: {len(shelf.kept)} tasks of {tried} bugs so far")
        return stream

    async def _attempt(self, package: Package, bug: Bug, parts: Parts) -> Outcome:
        known = self._records.outcomes.get((package.prepared.package, bug.id))
        if known is None:
            async with self._slots:
                known = await attempt(package, bug, parts)
            self._records.add(known)
        return known

    # -- how they can be graded

    async def _admit(self) -> None:
        """Find out each task's class: last, since it takes longest and tasks are of use before."""
        kept = [each for _, shelf in self._shelves for each in shelf.kept]
        new = [each for each in kept if (each.package, each.bug) not in self._records.admitted]
        for first in range(0, len(new), AHEAD * self._jobs):
            async with asyncio.TaskGroup() as tasks:
                for each in new[first : first + AHEAD * self._jobs]:
                    tasks.create_task(self._admitted(each))
            self._write()
            self._tell(f"{len(self._records.admitted)} of {len(kept)} tasks have their class of grading")

    async def _admitted(self, kept: Kept) -> None:
        async with self._slots:
            started = time.monotonic()
            task = await asyncio.to_thread(kept.row.to_task, self._out)
            base, reference = await trees(task)
            machines = machines_for(task, await self._sandboxes.backend())
            try:
                task = await admit(task, base, reference, machines)
            except GradingError as error:
                self._say(f"not admitted, the same command tries again: {task.id}: {error}")
                return
        fields = task.model_dump(mode="json", include={"assurance", "calibration", "judged", "seeded"})
        seconds = round(time.monotonic() - started, 2)
        self._records.add(Admitted(package=kept.package, bug=kept.bug, fields=fields, seconds=seconds))

    # -- what is written

    def _tell(self, words: str) -> None:
        """Say how far it is, now and then."""
        if time.monotonic() - self._spoke > LINE_SECONDS:
            self._spoke = time.monotonic()
            self._say(words)

    def _rows(self, shelf: Shelf) -> list[BuiltRow]:
        """The tasks of a shelf, with their class where it is known."""
        known = [(each.row, self._records.admitted.get((each.package, each.bug))) for each in shelf.kept]
        return [row if found is None else row.having(found.fields) for row, found in known]

    def _write(self) -> None:
        rows = [row for _, shelf in self._shelves for row in self._rows(shelf)]
        _replace(self._out / built.FILE, "".join(row.model_dump_json() + "\n" for row in rows))

    def _report(self, finished: bool) -> BuildReport:
        packages = [
            package_report(prepared, self._rows(shelf), shelf, self._jobs)
            for prepared, shelf in self._shelves
        ]
        rows = [row for _, shelf in self._shelves for row in self._rows(shelf)]
        admitting = sum(each.seconds for each in self._records.admitted.values())
        return BuildReport(
            seed=self._order.seed,
            wanted=self._order.tasks,
            finished=finished,
            tasks=len(rows),
            splits=counted(rows, "split"),
            classes=counted(rows, "assurance"),
            seeded=seeded(rows),
            admission_seconds=round(admitting / self._jobs, 1),
            packages=tuple(packages),
            refused=tuple(self._refused),
        )


def _replace(path: Path, text: str) -> None:
    """Write a file so that it is there whole at any time."""
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
