"""A comparison told: tables for the terminal, a page, and its plot as a file of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from markupsafe import Markup
from pydantic import JsonValue
from rich.console import Group, RenderableType
from rich.text import Text

from turnwise.trainer.compare.manifest import Manifest, plan_comparison
from turnwise.trainer.compare.pool import Listener
from turnwise.trainer.compare.results import ArmResult, Comparison, PairResult
from turnwise.trainer.compare.statistics import Estimate, estimate
from turnwise.trainer.recipe import Recipe
from turnwise.viewer.charts import Axes, Curve, difference_bar, side_by_side
from turnwise.viewer.compare_progress import Silent
from turnwise.viewer.console import grid, pairs
from turnwise.viewer.page import chart_style, render_page, write_page
from turnwise.viewer.words import printable

COLOURS, DASHES = 6, 5
"""Kinds of lines: told apart by either, so that colours are not needed."""


def compare(
    recipes: Sequence[Recipe | str | Path],
    *,
    seeds: int,
    run: str | Path,
    first_seed: int = 0,
    tune: Mapping[str, Sequence[JsonValue]] | None = None,
    tune_seeds: int = 2,
    jobs: int = 1,
    listener: Listener | None = None,
) -> Comparison:
    """Train recipes with the same seeds on the same tasks, and compare them; see docs/compare.md.

    ``recipes`` may be names, paths or recipes with some of it overridden. ``tune`` maps settings to the
    values that are tried for every recipe, with ``tune_seeds`` other seeds. The runs are processes of their
    own, ``jobs`` at once: call it below ``if __name__ == "__main__":`` where it is called by a script. What
    ``run`` holds of it already is kept. Raises ``UsageError`` for recipes that are not comparable and for a
    folder begun with others.
    """
    loaded = [recipe if isinstance(recipe, Recipe) else Recipe.load(recipe) for recipe in recipes]
    manifest = plan_comparison(
        loaded, seeds=seeds, first_seed=first_seed, tune=tune, tune_seeds=tune_seeds, command=""
    )
    return carry_out(manifest, Path(run), jobs=jobs, listener=listener or Silent())


def carry_out(manifest: Manifest, folder: Path, *, jobs: int, listener: Listener) -> Comparison:
    """Run what is left of a comparison; its page and plot are written anew after every run."""
    from turnwise.trainer.compare.compare import run_comparison

    def publish(result: Comparison) -> None:
        write_comparison(folder, result)

    return run_comparison(manifest, folder, jobs=jobs, listener=listener, publish=publish)


def write_comparison(folder: Path, result: Comparison) -> Path:
    """Write ``compare.svg`` and ``compare.html`` and return the page's path."""
    drawing = plot(result)
    if drawing:
        write_page(folder / "compare.svg", alone(drawing))
    manifest = result.manifest
    page = render_page(
        "compare.html",
        path=str(folder),
        result=result,
        env=str(manifest.recipes[0].env),
        notes=notes(result),
        plot=drawing,
        bar=bar,
        share=share,
        span=span,
        points=points,
        half=half,
        number=number,
        settings=settings,
        counted=counted,
        paired=paired,
    )
    return write_page(folder / "compare.html", page)


# ---------------------------------------------------------------- words


def share(value: Estimate | None) -> str:
    """A mean share, as in ``94.3%``."""
    return "–" if value is None else f"{value.mean:.1%}"


def span(value: Estimate | None) -> str:
    """The interval of a mean share, as far as a share can go."""
    if value is None or value.low is None or value.high is None:
        return "–"
    return f"{100 * max(0.0, value.low):.1f}–{min(1.0, value.high):.1%}"


def points(value: Estimate | None) -> str:
    """A mean difference in percentage points."""
    return "–" if value is None else f"{100 * value.mean:+.1f}"


def half(value: Estimate | None) -> str:
    """Half the width of an interval in percentage points; a mean of one value has none."""
    return "" if value is None or value.high is None else f" ± {100 * (value.high - value.mean):.1f}"


def number(value: Estimate | None) -> str:
    """A mean as a whole number."""
    return "–" if value is None else f"{value.mean:,.0f}"


def settings(chosen: Mapping[str, JsonValue]) -> str:
    """Settings as on a command line."""
    return " ".join(f"{key}={value}" for key, value in chosen.items())


def counted(arm: ArmResult) -> str:
    """How many of a recipe's runs count."""
    return f"{len(arm.counted)}/{len(arm.runs)}"


def paired(pair: PairResult) -> str:
    """Over how many seeds a pair was compared; the others were left out."""
    seeds = len(pair.seeds)
    return f"{seeds} of {seeds + pair.left_out}" if pair.left_out else str(seeds)


def notes(result: Comparison) -> list[str]:
    """What a reader has to know to judge the figures."""
    manifest, n = result.manifest, len(result.manifest.seeds)
    tuning = manifest.tuning
    tried = f"{len(tuning.trials)} trials for each recipe"
    if tuning.trials:
        tried += f" with {len(tuning.seeds)} other seeds, chosen by the mean of the validation curve"
    lines = [
        f"{n} paired seed{'s' if n > 1 else ''}, from {manifest.seeds[0]} to {manifest.seeds[-1]}; each has "
        "a warm start of its own, which the recipes share where they agree in all it depends on.",
        f"Held out: the first {manifest.test.tasks} tasks of test. Curve: the mean of success over the "
        f"evaluations on {manifest.validation.tasks} tasks of {manifest.validation.split}, step 0 included.",
        f"Tuning: {tried}.",
        "Intervals: 95% over seeds (Student's t), not corrected for the number of pairs.",
    ]
    if result.left_out:
        lines.append(
            f"{len(result.left_out)} of {n * len(manifest.recipes)} runs did not finish and count in no mean "
            "and no pair; see below."
        )
    return lines


# ---------------------------------------------------------------- the terminal


def comparison_view(result: Comparison) -> RenderableType:
    """The table, the differences, and what was left out."""
    right = ["runs", "held-out success", "curve mean", "submitted", "CPU s"]
    table = grid("recipe", *right, right=right)
    for arm in result.arms:
        table.add_row(
            arm.recipe,
            counted(arm),
            share(arm.held_out_success) + half(arm.held_out_success),
            share(arm.curve_mean) + half(arm.curve_mean),
            share(arm.held_out_completion),
            number(arm.cpu_seconds),
        )
    parts: list[RenderableType] = [table, Text(""), differences_table(result.pairs)]
    chosen = [(arm.recipe, settings(arm.chosen)) for arm in result.arms if arm.chosen]
    if chosen:
        parts += [Text("\nChosen by tuning", style="bold"), pairs(chosen)]
    if result.left_out:
        lines = [(f"{recipe}, seed {run.seed}", printable(run.stopped)) for recipe, run in result.left_out]
        parts += [Text("\nDid not finish", style="bold"), pairs(lines)]
    return Group(*parts)


def differences_table(rows: Sequence[PairResult]) -> RenderableType:
    """Every pair, in percentage points."""
    right = ["held out", "curve mean", "seeds"]
    table = grid("difference in points", "", *right, right=right)
    for pair in rows:
        out, curve = pair.held_out_success.estimate, pair.curve_mean.estimate
        table.add_row(
            pair.first,
            f"− {pair.second}",
            points(out) + half(out),
            points(curve) + half(curve),
            paired(pair),
        )
    return table


# ---------------------------------------------------------------- the plot


def plot(result: Comparison) -> Markup:
    """Success against episodes and against CPU seconds."""
    seeds = len(result.manifest.seeds)
    name = f"Success on {result.manifest.validation.split}: mean and 95% interval over {seeds} seeds"
    by_episodes, by_cpu = [], []
    for i, arm in zip(count(), result.arms, strict=False):
        episodes, cpu = curves(arm, f"s{i % COLOURS + 1} d{i % DASHES}")
        by_episodes.append(episodes)
        by_cpu.append(cpu)
    return side_by_side(
        name,
        [
            (by_episodes, Axes(x="training episodes", place=lambda x: f"{x:,.0f} episodes")),
            (by_cpu, Axes(x="CPU seconds, warm start included", place=lambda x: f"{x:,.0f} CPU seconds")),
        ],
    )


def curves(arm: ArmResult, style: str) -> tuple[Curve, Curve]:
    """A recipe's mean over the runs that count at each evaluation, by episodes and by CPU seconds, of which
    the mean is taken too."""
    runs = [{point.step: point for point in run.curve} for run in arm.counted]
    steps = [step for step in (runs[0] if runs else ()) if all(step in run for run in runs)]
    episodes, cpu, band = [], [], []
    for step in steps:
        here = [run[step] for run in runs]
        success = estimate([point.success for point in here])
        assert success is not None
        low = success.mean if success.low is None else max(0.0, success.low)
        high = success.mean if success.high is None else min(1.0, success.high)
        band.append((low, high))
        episodes.append((sum(p.episodes for p in here) / len(here), success.mean))
        cpu.append((sum(p.cpu_seconds for p in here) / len(here), success.mean))
    return (
        Curve(arm.recipe, episodes, style, band, dots=True),
        Curve(arm.recipe, cpu, style, band, dots=True),
    )


def bar(value: Estimate | None, rows: Sequence[PairResult], metric: str) -> Markup:
    """A difference on the scale of all differences of its metric."""
    if value is None:
        return Markup("")
    every: list[Estimate | None] = [getattr(row, metric).estimate for row in rows]
    ends = [end for e in every if e is not None for end in (e.mean, e.low, e.high) if end is not None]
    low = value.mean if value.low is None else value.low
    high = value.mean if value.high is None else value.high
    return difference_bar(value.mean, low, high, min(1.0, max(map(abs, ends))))


def alone(drawing: Markup) -> str:
    """A drawing as a file that brings its size and colours, on a background of its own."""
    head, _, rest = str(drawing).partition(">")
    _, _, width, height = head.partition('viewBox="')[2].partition('"')[0].split()
    size = f'xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    head = head.replace("<svg", f"<svg {size}")
    style = f'<style>{chart_style()}</style><rect width="100%" height="100%" fill="var(--page)"/>'
    return f"{head}>{style}{rest}\n"
