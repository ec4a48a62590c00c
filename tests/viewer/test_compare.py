"""A comparison as it is told: nothing left out, intervals that can be read, and what goes on live."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from turnwise.trainer.compare.manifest import plan_comparison
from turnwise.trainer.compare.pool import Training, WarmUp
from turnwise.trainer.compare.results import Comparison, Point, SeedRun, Trial, arm_result, pair_results
from turnwise.trainer.compare.statistics import Estimate
from turnwise.trainer.recipe import Recipe
from turnwise.viewer.charts import difference_bar
from turnwise.viewer.compare import comparison_view, curves, span, write_comparison
from turnwise.viewer.compare_progress import CompareProgress

NAMES = ("quickstart", "quickstart-outcome", "quickstart-shaped")


def made(seed: int, level: float, stopped: str = "finished") -> SeedRun:
    """A run of 30 steps that ends at a level of success."""
    points = [(0, 20.0 + seed, 0.4), (15, 40.0 + seed, (0.4 + level) / 2), (30, 60.0 + seed, level)]
    curve = tuple(
        Point(step=step, episodes=128 * step, cpu_seconds=cpu, success=success, completion=0.9)
        for step, cpu, success in points
    )
    return SeedRun(
        seed=seed,
        folder=f"runs/x/seed-{seed}",
        stopped=stopped,
        held_out_success=level,
        interval=(level - 0.1, level),
        held_out_completion=0.9,
        steps=30,
        episodes=3840,
        cpu_seconds=60.0 + seed,
        wall_seconds=70.0,
        curve=curve,
        curve_mean=(0.4 + level) / 2,
    )


@pytest.fixture
def result() -> Comparison:
    """Three recipes, two seeds; one run was stopped with words that are no HTML."""
    recipes = [Recipe.load(name).override(steps=30) for name in NAMES]
    manifest = plan_comparison(
        recipes, seeds=2, tune={"optimizer.lr": [0.5, 0.25]}, command="turnwise compare …"
    )
    runs = [
        [made(0, 0.9), made(1, 0.94)],
        [made(0, 0.6), made(1, 0.68)],
        [made(0, 0.5), made(1, 0.5, "the gap is <b>1\x1b[2J</b>")],
    ]
    arms = [arm_result(n, {"optimizer.lr": 0.25}, own) for n, own in zip(NAMES, runs, strict=True)]
    trials = tuple(
        Trial(recipe=n, settings={"optimizer.lr": lr}, runs=(), score=lr, chosen=lr == 0.25)
        for n in NAMES
        for lr in (0.5, 0.25)
    )
    pairs = tuple(pair_results(arms))
    return Comparison(manifest=manifest, trials=trials, arms=tuple(arms), pairs=pairs)


def text_of(renderable: object, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_says_how_many_runs_count_and_why_others_do_not(result: Comparison) -> None:
    told = text_of(comparison_view(result))
    assert re.search(r"^quickstart +2/2 +92\.0% ± 25\.4 +66\.0% ± 12\.7 +90\.0% +60$", told, re.M)
    assert re.search(r"^quickstart-shaped +1/2 +50\.0% +45\.0%", told, re.M)
    assert re.search(r"^quickstart-outcome +− quickstart +-28\.0 ± 25\.4 +-14\.0 ± 12\.7 +2$", told, re.M)
    assert re.search(r"^quickstart-shaped +− quickstart +-40\.0 +-20\.0 +1 of 2$", told, re.M)
    assert re.search(r"quickstart-shaped, seed 1 +the gap is <b>1\\x1b\[2J</b>", told)
    assert re.search(r"Chosen by tuning\nquickstart +optimizer\.lr=0\.25", told)


def test_the_page_escapes_and_leaves_nothing_out(result: Comparison, tmp_path: Path) -> None:
    page = write_comparison(tmp_path, result).read_text()
    assert "the gap is &lt;b&gt;1\\x1b[2J&lt;/b&gt;" in page
    assert "1 of 6 runs did not finish" in page
    assert "Tuning: 2 trials for each recipe with 2 other seeds" in page
    assert page.count("runs/x/seed-") == 6
    assert page.count('class="mark">chosen') == 3
    assert page.count('class="bar"><svg') == 2 * len(result.pairs)


def test_the_plot_is_a_file_that_stands_alone(result: Comparison, tmp_path: Path) -> None:
    write_comparison(tmp_path, result)
    drawing = ElementTree.parse(tmp_path / "compare.svg").getroot()
    words = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert [word for word in words if word in NAMES] == list(NAMES)
    assert "training episodes" in words
    assert "CPU seconds, warm start included" in words
    assert float(drawing.get("width", "0")) == 1040


def test_a_curve_is_the_mean_over_the_runs_that_count(result: Comparison) -> None:
    by_episodes, by_cpu = curves(result.arms[0], "s1")
    assert [x for x, _ in by_episodes.points] == [0, 1920, 3840]
    assert [y for _, y in by_episodes.points] == pytest.approx([0.4, 0.66, 0.92])
    assert [x for x, _ in by_cpu.points] == [20.5, 40.5, 60.5]
    assert list(by_cpu.band[-1]) == pytest.approx([0.92 - 0.2541, 1.0], abs=1e-4)
    assert len(curves(result.arms[2], "s1")[0].points) == 3


def test_an_interval_ends_where_a_share_does() -> None:
    assert span(Estimate(mean=0.95, low=0.85, high=1.05, n=3)) == "85.0–100.0%"
    assert span(Estimate(mean=0.95, low=None, high=None, n=1)) == "–"


def test_a_bar_is_grey_where_its_interval_holds_0() -> None:
    styles = [
        re.search(r'class="(s\d) reach"', difference_bar(mean, mean - 0.1, mean + 0.1, 1.0))
        for mean in (0.05, 0.3, -0.3)
    ]
    assert [style and style[1] for style in styles] == ["s6", "s1", "s2"]


# ---------------------------------------------------------------- live


def test_a_terminal_shows_what_runs_and_keeps_a_line_for_what_ended(tmp_path: Path) -> None:
    recipe, out = Recipe.load("quickstart"), io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, markup=False, highlight=False)
    warm = WarmUp(tmp_path / "warm/seed-0-x", recipe.override(name="warm start of quickstart"))
    trial = Training(tmp_path / "tuning/quickstart/trial-2/seed-0", recipe, warm.folder)
    with CompareProgress(console, "2 recipes", total=4) as progress:
        progress.started(warm)
        progress.ended(warm, None)
        progress.started(trial)
        progress.row(trial, {"kind": "train", "step": 7, "success": 0.55})
        progress.phase(trial, "rollout", 3, 128)
        shown = text_of(progress.view())
        progress.ended(trial, "killed by SIGKILL")
    assert re.search(r"runs .* 0 of 4 runs", shown)
    assert "warm start" not in shown
    assert re.search(r"quickstart, seed 0, trial 2 .* step 7, 55%, rollout", shown)
    assert "1/4  quickstart, seed 0, trial 2: failed: killed by SIGKILL" in out.getvalue()
