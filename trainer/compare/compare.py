"""A comparison from its manifest to its result: tuning, warm starts, runs, and what they come down to.

<folder>/manifest.json                        what was fixed before the first run
<folder>/warm/seed-0-1a2b3c4d/                warm starts, one for all recipes that would do the same
<folder>/tuning/RECIPE/trial-1/seed-1000/     runs of the tuning trials
<folder>/runs/RECIPE/seed-0/                  the runs compared
<folder>/compare.json                         the result

The folder is the whole state: what has come to its end there is not run again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

from pydantic import JsonValue

from turnwise.trainer import run_folder
from turnwise.trainer.begin import start_of
from turnwise.trainer.compare.manifest import MANIFEST, Manifest, folder_name, freeze
from turnwise.trainer.compare.pool import Job, Listener, Training, WarmUp, carry_out, settled
from turnwise.trainer.compare.results import (
    ArmResult,
    Comparison,
    SeedRun,
    Trial,
    arm_result,
    pair_results,
    read_run,
)
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.setup import prepare
from turnwise.trainer.tracker import Row

NO_CHOICE = "no tuning trial finished with every seed"


Publish: TypeAlias = Callable[[Comparison], None]


def run_comparison(
    manifest: Manifest, folder: Path, *, jobs: int, listener: Listener, publish: Publish
) -> Comparison:
    """Carry out what is left of a comparison, ``jobs`` runs at once.

    After every run ``compare.json`` is written, with what there is so far, and published. Raises
    ``UsageError`` before anything starts for recipes that cannot be run here, and for a folder that holds
    something else.
    """
    for candidate in manifest.candidates():
        prepare(candidate)
    freeze(folder, manifest)
    with run_folder.locked(folder, MANIFEST):
        work = _Work(manifest, folder, listener, publish)
        work.go_through(jobs)
        return work.result()


@dataclass(slots=True)
class _Work:
    """A comparison in progress, and the listener of its runs."""

    manifest: Manifest
    folder: Path
    listener: Listener
    publish: Publish
    failures: dict[Path, str] = field(default_factory=dict)
    begun: set[Path] = field(default_factory=set)

    def go_through(self, at_once: int) -> None:
        """The tuning trials, then the runs of every recipe that has its settings."""
        carry_out(_once(self._tuning_runs()), at_once, self)
        if not self.failures:
            carry_out(_once(self._compared_runs()), at_once, self)
        self._write()

    def chosen(self, recipe: Recipe) -> Mapping[str, JsonValue] | None:
        """The settings that tuning chose for a recipe; None where it could not."""
        if not self.manifest.tuning.trials:
            return {}
        return next((trial.settings for trial in self._trials(recipe) if trial.chosen), None)

    def result(self) -> Comparison:
        """What there is so far."""
        arms = [self._arm(recipe) for recipe in self.manifest.recipes]
        return Comparison(
            manifest=self.manifest,
            trials=tuple(trial for recipe in self.manifest.recipes for trial in self._trials(recipe)),
            arms=tuple(arms),
            pairs=tuple(pair_results(arms)),
        )

    def _write(self) -> None:
        result = self.result()
        with run_folder.writing(self.folder / "compare.json"):
            draft = self.folder / ".compare.tmp"
            draft.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
            draft.replace(self.folder / "compare.json")
        self.publish(result)

    # -- Listener

    def started(self, job: Job) -> None:
        """Pass it on."""
        self.begun.add(job.folder)
        self.listener.started(job)

    def phase(self, job: Job, name: str, done: int, total: int) -> None:
        """Pass it on."""
        self.listener.phase(job, name, done, total)

    def row(self, job: Job, row: Row) -> None:
        """Pass it on."""
        self.listener.row(job, row)

    def ended(self, job: Job, failure: str | None) -> None:
        """Pass it on, and write down what there is now."""
        if failure is not None:
            self.failures[job.folder] = failure
        self.listener.ended(job, failure)
        if job.folder in self.begun:
            self._write()

    # -- runs and where they are

    def _tuning_runs(self) -> Iterator[Job]:
        for seed in self.manifest.tuning.seeds:
            for recipe in self.manifest.recipes:
                for number, settings in enumerate(self.manifest.tuning.trials, start=1):
                    folder = self._trial_folder(recipe, number, seed)
                    yield from self._runs(recipe.override(**settings), seed, folder)

    def _compared_runs(self) -> Iterator[Job]:
        chosen = [(recipe, self.chosen(recipe)) for recipe in self.manifest.recipes]
        for seed in self.manifest.seeds:
            for recipe, settings in chosen:
                if settings is not None:
                    folder = self._run_folder(recipe, seed)
                    yield from self._runs(recipe.override(**settings), seed, folder)

    def _runs(self, recipe: Recipe, seed: int, folder: Path) -> Iterator[Job]:
        """A run, and before it the warm start it is from."""
        seeded = recipe.override(seed=seed)
        if seeded.warm_start is None:
            yield Training(folder, seeded, None)
            return
        start = json.dumps(start_of(seeded), sort_keys=True)
        name = f"seed-{seed}-{hashlib.sha256(start.encode()).hexdigest()[:8]}"
        warm = self.folder / "warm" / name
        yield WarmUp(warm, seeded.override(name=f"warm start of {recipe.name}"))
        yield Training(folder, seeded, warm)

    def _run_folder(self, recipe: Recipe, seed: int) -> Path:
        return self.folder / "runs" / folder_name(recipe.name) / f"seed-{seed}"

    def _trial_folder(self, recipe: Recipe, number: int, seed: int) -> Path:
        return self.folder / "tuning" / folder_name(recipe.name) / f"trial-{number}" / f"seed-{seed}"

    def _read(self, folder: Path, seed: int) -> SeedRun:
        return read_run(self.folder, folder, seed, self.failures.get(folder))

    # -- what came of them

    def _trials(self, recipe: Recipe) -> list[Trial]:
        """The trials of a recipe; the first of the best ones is chosen once all have come to their end."""
        tried, over = [], True
        for number, settings in enumerate(self.manifest.tuning.trials, start=1):
            folders = {s: self._trial_folder(recipe, number, s) for s in self.manifest.tuning.seeds}
            over = over and all(settled(folder) for folder in folders.values())
            runs = [self._read(folder, seed) for seed, folder in folders.items()]
            means = [run.curve_mean for run in runs if run.counts and run.curve_mean is not None]
            tried.append((settings, runs, fmean(means) if len(means) == len(runs) else None))
        scores = [score for _, _, score in tried]
        best = max((score for score in scores if score is not None), default=None)
        first = scores.index(best) if over and best is not None else None
        return [
            Trial(recipe=recipe.name, settings=settings, runs=tuple(runs), score=score, chosen=i == first)
            for i, (settings, runs, score) in enumerate(tried)
        ]

    def _arm(self, recipe: Recipe) -> ArmResult:
        chosen = self.chosen(recipe)
        runs = []
        for seed in self.manifest.seeds:
            run = self._read(self._run_folder(recipe, seed), seed)
            runs.append(run if chosen is not None else run.model_copy(update={"stopped": NO_CHOICE}))
        return arm_result(recipe.name, chosen or {}, runs)


def _once(jobs: Iterable[Job]) -> list[Job]:
    """Every job where it is named first: recipes share warm starts."""
    first: dict[Path, Job] = {}
    for job in jobs:
        first.setdefault(job.folder, job)
    return list(first.values())
