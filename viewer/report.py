"""The report of a run: one HTML file that needs nothing else, to be read, kept and sent."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from turnwise.trainer.recipe import Recipe
from turnwise.trainer.run_folder import Run
from turnwise.trainer.tracker import Tracker, Watcher
from turnwise.viewer.charts import MAX_POINTS, scale_of, shade
from turnwise.viewer.credit_map import credit_maps
from turnwise.viewer.episodes import Pick, pick_episodes
from turnwise.viewer.figures import figures
from turnwise.viewer.page import render_page, write_page
from turnwise.viewer.run_folder import RunFolder
from turnwise.viewer.words import duration, interval, percent


def write_report(run: Path | str) -> Path:
    """Write ``report.html`` into a run's folder and return its path.

    Raises ``UsageError`` where ``run`` is not a run's folder.
    """
    folder = RunFolder(run)
    return write_page(folder.path / "report.html", render(folder))


async def train(
    recipe: Recipe,
    *,
    env: str | None = None,
    run: str | Path,
    resume: bool = False,
    trackers: Sequence[Tracker] = (),
    watcher: Watcher | None = None,
) -> Run:
    """:func:`turnwise.trainer.train.train`, and the report of the run at its end."""
    from turnwise.trainer.train import train as train_run

    result = await train_run(recipe, env=env, run=run, resume=resume, trackers=trackers, watcher=watcher)
    await asyncio.to_thread(write_report, result.folder)
    return result


async def sft(
    recipe: Recipe,
    *,
    run: str | Path,
    source: str | Path | None = None,
    trackers: Sequence[Tracker] = (),
    watcher: Watcher | None = None,
) -> Run:
    """:func:`turnwise.trainer.sft.sft`, and the report of the run at its end."""
    from turnwise.trainer.sft import sft as sft_run

    result = await sft_run(recipe, run=run, source=source, trackers=trackers, watcher=watcher)
    await asyncio.to_thread(write_report, result.folder)
    return result


def render(run: RunFolder) -> str:
    """The report as a page."""
    picks = pick_episodes(run)
    return render_page(
        "report.html",
        path=str(run.path),
        recipe=run.config["name"],
        env=str(run.env),
        seed=run.config["seed"],
        tiles=list(tiles(run)),
        notes=list(notes(run)),
        figures=[figure for figure in figures(run) if figure.drawing],
        maps=list(credit_maps(run)),
        averaged=math.ceil(len(run.of_kind("train")) / MAX_POINTS),
        evaluations=run.evaluations,
        picks=picks,
        shade=partial(shade, scale=scale_of(advantages(picks))),
        config=run.config_text,
        files=list(files(run)),
    )


# ---------------------------------------------------------------- headline


@dataclass(frozen=True, slots=True)
class Tile:
    """One headline figure."""

    label: str
    figure: str
    detail: str = ""


def tiles(run: RunFolder) -> Iterator[Tile]:
    """The headline figures; a run that has not ended shows what it has so far."""
    if run.evaluations:
        row = run.evaluations[-1]
        label = "Held-out success" if row["kind"] == "final" else f"Success at step {row['step']}"
        detail = f"95% interval {interval(row['low'], row['high'])}, {row['tasks']} tasks of {row['split']}"
        yield Tile(label, percent(row["success"]), detail)
    else:
        yield Tile("Held-out success", "–", "not evaluated yet")
    train, last = run.of_kind("train"), run.rows[-1] if run.rows else {}
    episodes = train[-1]["episodes"] if train else 0
    yield Tile("Training steps", f"{run.steps:,}", f"{episodes:,} episodes")
    wall, cpu = last.get("wall_seconds", 0.0), last.get("cpu_seconds", 0.0)
    yield Tile("Wall time", duration(wall), f"{cpu:,.0f} CPU seconds")
    if run.summary is not None:
        yield Tile("Peak memory", f"{run.summary.peak_rss_mb:,.0f} MB", "resident, the training process")


def notes(run: RunFolder) -> Iterator[str]:
    """What a reader has to know to judge the figures."""
    if run.summary is None:
        yield "The run has not ended, or was killed; the figures are those so far."
    elif run.summary.stopped != "finished":
        yield f"Stopped early: {run.summary.stopped}."
    resumed = [f"step {row['step']}" for row in run.of_kind("resume")]
    if resumed:
        yield f"Resumed at {', '.join(resumed)}."
    excluded: Counter[str] = Counter()
    for row in run.of_kind("train"):
        excluded.update(row["excluded"])
    if excluded:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in excluded.most_common())
        yield f"Training episodes left out because the environment or the machine failed: {reasons}."
    warnings = run.of_kind("warning")
    if warnings:
        more = f" ({len(warnings)} steps with a warning; this is the last)" if len(warnings) > 1 else ""
        yield f"Warning at step {warnings[-1]['step']}: {warnings[-1]['reason']}{more}."


# ---------------------------------------------------------------- episodes and files


def advantages(picks: Sequence[Pick]) -> list[float]:
    """The advantages of the episodes shown, which set the scale of their cells."""
    return [v for pick in picks for v in pick.shown.columns.get("advantage", ()) if v is not None]


FILES = (
    ("summary.json", "what the run ended with"),
    ("metrics.jsonl", "every row of metrics"),
    ("config.yaml", "the recipe as resolved"),
    ("episodes/", "episodes, turn by turn"),
    ("credit/", "reward and advantage of every turn"),
    ("checkpoints/", "weights and everything else a resumed run needs"),
    ("tensorboard/", "for TensorBoard"),
)


def files(run: RunFolder) -> Iterator[tuple[str, str]]:
    """The files of the folder that are there, with what is in them."""
    return ((name, what) for name, what in FILES if (run.path / name).exists())
