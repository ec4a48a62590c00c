"""What came of the runs: read from their folders, averaged over seeds, and paired by seed.

Only a run that finished counts in a mean or a pair. One that a guard stopped, that failed or that has not
been run is listed with its reason, and every figure says over how many seeds it was taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean

from pydantic import JsonValue

from turnwise.envs.types import Model
from turnwise.trainer.compare.manifest import Manifest
from turnwise.trainer.compare.statistics import Estimate, estimate
from turnwise.trainer.run_folder import Summary
from turnwise.trainer.tracker import read_lines

FINISHED = "finished"
NOT_RUN = "not run yet"


class Point(Model):
    """An evaluation on the validation split."""

    step: int
    episodes: int
    """Training episodes before it."""
    cpu_seconds: float
    """Of the run until then, its warm start included."""
    success: float
    completion: float
    """Share of the evaluation's episodes that the agent submitted."""


class SeedRun(Model):
    """A run of one recipe with one seed."""

    seed: int
    folder: str
    stopped: str
    """``finished``, or why it did not."""
    held_out_success: float | None = None
    interval: tuple[float, float] | None = None
    """95%, over the tasks of this one evaluation."""
    held_out_completion: float | None = None
    steps: int = 0
    episodes: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    curve: tuple[Point, ...] = ()
    curve_mean: float | None = None

    @property
    def counts(self) -> bool:
        """Whether it counts in means and pairs."""
        return self.stopped == FINISHED and self.held_out_success is not None and self.curve_mean is not None


class ArmResult(Model):
    """A recipe over all seeds."""

    recipe: str
    chosen: dict[str, JsonValue]
    """The settings that tuning chose."""
    runs: tuple[SeedRun, ...]
    held_out_success: Estimate | None
    curve_mean: Estimate | None
    held_out_completion: Estimate | None
    cpu_seconds: Estimate | None

    @property
    def counted(self) -> list[SeedRun]:
        """The runs that count."""
        return [run for run in self.runs if run.counts]


class Difference(Model):
    """The first recipe's value minus the second's, seed by seed."""

    differences: tuple[float, ...]
    estimate: Estimate | None


class PairResult(Model):
    """Two recipes over the seeds with which both finished."""

    first: str
    second: str
    seeds: tuple[int, ...]
    left_out: int
    """Seeds with which one of them did not finish."""
    held_out_success: Difference
    curve_mean: Difference


class Trial(Model):
    """Settings that were tried for a recipe."""

    recipe: str
    settings: dict[str, JsonValue]
    runs: tuple[SeedRun, ...]
    score: float | None
    """Mean of ``curve_mean`` over the tuning seeds; None where one of them did not finish."""
    chosen: bool


class Comparison(Model):
    """The result of a comparison: ``compare.json``."""

    manifest: Manifest
    trials: tuple[Trial, ...]
    arms: tuple[ArmResult, ...]
    pairs: tuple[PairResult, ...]

    @property
    def left_out(self) -> list[tuple[str, SeedRun]]:
        """Every run that counts nowhere, with its recipe."""
        return [(arm.recipe, run) for arm in self.arms for run in arm.runs if not run.counts]


def read_run(root: Path, folder: Path, seed: int, failure: str | None) -> SeedRun:
    """A run from its folder, as far as it has come; ``failure`` says why its process broke off."""
    rows = list(read_lines(folder / "metrics.jsonl"))
    episodes = {row["step"]: row["episodes"] for row in rows if row["kind"] == "train"}
    points = {
        row["step"]: Point(
            step=row["step"],
            episodes=episodes.get(row["step"], 0),
            cpu_seconds=row["cpu_seconds"],
            success=row["success"],
            completion=row["completion"],
        )
        for row in rows
        if row["kind"] == "eval" and "success" in row
    }
    curve = tuple(points.values())
    place = str(folder.relative_to(root))
    mean = fmean(point.success for point in curve) if curve else None
    path = folder / "summary.json"
    if not path.is_file():
        stopped = f"failed: {failure}" if failure else NOT_RUN if not rows else "not finished yet"
        return SeedRun(seed=seed, folder=place, stopped=stopped, curve=curve, curve_mean=mean)
    summary = Summary.model_validate_json(path.read_text(encoding="utf-8"))
    final = next((row for row in reversed(rows) if row["kind"] == "final"), {})
    stopped = summary.stopped
    if stopped == FINISHED and summary.held_out_success is None:
        stopped = "no held-out episode could be scored"
    return SeedRun(
        seed=seed,
        folder=place,
        stopped=stopped,
        held_out_success=summary.held_out_success,
        interval=summary.interval,
        held_out_completion=final.get("completion"),
        steps=summary.steps,
        episodes=summary.episodes,
        cpu_seconds=summary.cpu_seconds,
        wall_seconds=summary.wall_seconds,
        curve=curve,
        curve_mean=mean,
    )


def arm_result(recipe: str, chosen: Mapping[str, JsonValue], runs: Sequence[SeedRun]) -> ArmResult:
    """A recipe's means over the runs that count."""
    counted = [run for run in runs if run.counts]

    def mean(name: str) -> Estimate | None:
        return estimate([getattr(run, name) for run in counted if getattr(run, name) is not None])

    return ArmResult(
        recipe=recipe,
        chosen=dict(chosen),
        runs=tuple(runs),
        held_out_success=mean("held_out_success"),
        curve_mean=mean("curve_mean"),
        held_out_completion=mean("held_out_completion"),
        cpu_seconds=mean("cpu_seconds"),
    )


def pair_results(arms: Sequence[ArmResult]) -> list[PairResult]:
    """Every pair of recipes, the later one minus the earlier one."""
    return [_pair(later, earlier) for earlier, later in combinations(arms, 2)]


def _pair(first: ArmResult, second: ArmResult) -> PairResult:
    ours, theirs = ({run.seed: run for run in arm.counted} for arm in (first, second))
    seeds = [seed for seed in ours if seed in theirs]

    def difference(name: str) -> Difference:
        values = [getattr(ours[seed], name) - getattr(theirs[seed], name) for seed in seeds]
        return Difference(differences=tuple(values), estimate=estimate(values))

    return PairResult(
        first=first.recipe,
        second=second.recipe,
        seeds=tuple(seeds),
        left_out=len(first.runs) - len(seeds),
        held_out_success=difference("held_out_success"),
        curve_mean=difference("curve_mean"),
    )
