"""``turnwise compare``: recipes side by side, with the same tasks and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from turnwise.trainer.compare.results import Comparison
    from turnwise.trainer.recipe import Recipe


@click.command(short_help="Train recipes side by side, and say how sure the difference is.")
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True)
@click.option("--seeds", type=int, required=True, help="How many seeds each recipe is trained with.")
@click.option("--first-seed", type=int, default=0, show_default=True, help="The first of them.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change all; repeatable.")
@click.option("--set-for", "own", multiple=True, metavar="RECIPE:KEY=VALUE", help="Change one; repeatable.")
@click.option("--tune", multiple=True, metavar="KEY=V1,V2", help="Try these for every recipe; repeatable.")
@click.option("--tune-seeds", type=int, default=2, show_default=True, help="Other seeds, for tuning.")
@click.option("--run", type=click.Path(path_type=Path), help="Its folder; runs/compare-TIME by default.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at once.")
def compare(
    recipes: tuple[str, ...],
    seeds: int,
    first_seed: int,
    settings: tuple[str, ...],
    own: tuple[str, ...],
    tune: tuple[str, ...],
    tune_seeds: int,
    run: Path | None,
    jobs: int,
) -> int:
    """Train every RECIPE with the same seeds on the same tasks, and compare them pair by pair.

    What is compared is written down before the first run. The same command with the same --run goes on
    after Ctrl-C or a kill, and keeps what was finished. Ends with the table; writes compare.json,
    compare.html and compare.svg.

    \b
    Examples:
      turnwise compare quickstart quickstart-outcome --seeds 10 --run runs/c
      turnwise compare quickstart mine.yaml --seeds 5 --set steps=20 --jobs 2
      turnwise compare quickstart-gated quickstart-direct --seeds 10 --tune optimizer.lr=0.0005,0.001
    """
    from turnwise.cli.running import default_folder
    from turnwise.trainer.compare.manifest import plan_comparison
    from turnwise.viewer.compare import carry_out, comparison_view
    from turnwise.viewer.compare_progress import CompareProgress
    from turnwise.viewer.console import make_console

    folder = run or default_folder("compare")
    manifest = plan_comparison(
        load_arms(recipes, settings, own),
        seeds=seeds,
        first_seed=first_seed,
        tune=parse_grid(tune, settings),
        tune_seeds=tune_seeds,
        command=told(recipes, seeds, first_seed, settings, own, tune, tune_seeds),
    )
    console, tuning = make_console(), manifest.tuning
    each = len(manifest.seeds) + len(tuning.trials) * len(tuning.seeds)
    title = f"{len(recipes)} recipes, {seeds} seeds, in {folder}"
    try:
        with CompareProgress(console, title, each * len(recipes)) as progress:
            result = carry_out(manifest, folder, jobs=jobs, listener=progress)
    except KeyboardInterrupt:
        click.echo(f"interrupted; what is finished is kept: add --run {folder} to go on", err=True)
        raise click.exceptions.Exit(130) from None
    console.print()
    console.print(comparison_view(result))
    console.print(f"\nAs a page: {folder / 'compare.html'}", soft_wrap=True)
    return told_of_failures(result)


def told_of_failures(result: Comparison) -> int:
    """The exit code: 1 where a process broke off, which the same command tries again."""
    runs = [run for trial in result.trials for run in trial.runs] + [run for _, run in result.left_out]
    failed = sum(run.stopped.startswith("failed: ") for run in runs)
    if failed:
        click.echo(f"{failed} runs broke off; the same command with --run tries them again", err=True)
    return 1 if failed else 0


def load_arms(names: Sequence[str], settings: Sequence[str], own: Sequence[str]) -> list[Recipe]:
    """The recipes with what is set for all and for each. Raises ``UsageError``."""
    from turnwise.envs.errors import unknown
    from turnwise.trainer.recipe import Recipe, parse_settings

    apart: dict[str, list[str]] = {name: [] for name in names}
    for entry in own:
        owner = next((name for name in names if entry.startswith(f"{name}:")), None)
        if owner is None:
            raise unknown("recipe of --set-for", entry.partition(":")[0], names)
        apart[owner].append(entry.removeprefix(f"{owner}:"))
    for_all = parse_settings(settings)
    return [Recipe.load(name).override(**for_all).override(**parse_settings(apart[name])) for name in names]


def parse_grid(tune: Sequence[str], settings: Sequence[str]) -> dict[str, list[Any]]:
    """``key=v1,v2`` words as values by setting. Raises ``UsageError``."""
    from turnwise.envs.errors import UsageError
    from turnwise.trainer.recipe import parse_settings

    fixed = parse_settings(settings)
    grid: dict[str, list[Any]] = {}
    for entry in tune:
        key, equals, values = entry.partition("=")
        if not equals or not key.strip() or not values.strip():
            raise UsageError(f"--tune {entry!r}: write it as key=value,value, as in optimizer.lr=0.001,0.002")
        if key.strip() in grid or key.strip() in fixed:
            raise UsageError(f"--tune {entry!r}: {key.strip()} is given twice")
        grid |= parse_settings([f"{key}=[{values}]"])
    return grid


def told(
    recipes: Sequence[str],
    seeds: int,
    first_seed: int,
    settings: Sequence[str],
    own: Sequence[str],
    tune: Sequence[str],
    tune_seeds: int,
) -> str:
    """The command again, apart from where and how many at once."""
    from turnwise.cli.shell import command_line

    words: list[object] = ["compare", *recipes, "--seeds", seeds]
    words += ["--first-seed", first_seed] if first_seed else []
    for option, values in (("--set", settings), ("--set-for", own), ("--tune", tune)):
        words += [word for value in values for word in (option, value)]
    words += ["--tune-seeds", tune_seeds] if tune else []
    return command_line(*words)
