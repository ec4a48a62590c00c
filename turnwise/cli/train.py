"""``turnwise train``: train a recipe into a run's folder, with live progress and a report at the end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from turnwise.cli.choices import command_line

if TYPE_CHECKING:
    from turnwise.trainer.recipe import Recipe
    from turnwise.trainer.tracker import Tracker


@click.command(short_help="Train a recipe.")
@click.argument("recipe", required=False)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change the recipe; repeatable.")
@click.option("--run", type=click.Path(path_type=Path), help="Its folder; runs/RECIPE-TIME by default.")
@click.option("--resume", is_flag=True, help="Go on with the run in --run from its newest checkpoint.")
@click.option("--track", multiple=True, metavar="NAME", help="Also log to tensorboard, wandb or mlflow.")
def train(
    recipe: str | None, settings: tuple[str, ...], run: Path | None, resume: bool, track: tuple[str, ...]
) -> None:
    """Train RECIPE: a name from `turnwise recipes`, or a path that ends in .yaml.

    Shows progress and ends with held-out success, an episode turn by turn and an HTML report. Ctrl-C, or a
    kill, loses at most the current step; --resume goes on.

    \b
    Examples:
      turnwise train quickstart
      turnwise train quickstart --set seed=3 --set rollout.group=16
      turnwise train --resume --run runs/a
    """
    import asyncio

    from turnwise.cli.closing import print_result
    from turnwise.cli.tracking import open_later
    from turnwise.viewer import report
    from turnwise.viewer.console import make_console
    from turnwise.viewer.progress import Progress

    chosen = choose_recipe(recipe, settings, run, resume)
    folder = run or default_folder(chosen.name)
    others = open_later(track, folder)
    console = make_console()
    title = f"{chosen.name} on {chosen.env}, seed {chosen.seed}, in {folder}"
    try:
        with Progress(console, title, chosen.steps) as progress:
            trackers: list[Tracker] = [progress, *others]
            asyncio.run(report.train(chosen, run=folder, resume=resume, trackers=trackers, watcher=progress))
    except KeyboardInterrupt:
        interrupted(folder)
    print_result(console, folder)


def default_folder(name: str) -> Path:
    """A new folder below ``runs``."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def interrupted(folder: Path) -> None:
    """Say how to go on, write the report of what there is, and exit with 130."""
    from turnwise.viewer.report import write_report

    if (folder / "config.yaml").is_file():
        write_report(folder)
        how = command_line("train", "--resume", "--run", folder)
        click.echo(f"interrupted; to go on: {how}", err=True)
    else:
        click.echo("interrupted before the run began", err=True)
    raise click.exceptions.Exit(130)


def choose_recipe(name: str | None, settings: Sequence[str], run: Path | None, resume: bool) -> Recipe:
    """The recipe to train. Raises ``UsageError``, also where a run to resume was begun with another."""
    from turnwise.envs.errors import UsageError
    from turnwise.trainer.recipe import Recipe, built_in, parse_settings
    from turnwise.trainer.run_folder import stored_recipe

    if resume and run is None:
        raise UsageError("--resume needs --run DIR, the run to go on with")
    begun = None
    if resume and run is not None and (name is None or run.exists()):
        begun = stored_recipe(run)
    base = begun if name is None else Recipe.load(name)
    if base is None:
        raise UsageError(f"which RECIPE? (allowed: {', '.join(built_in())}, a path ending in .yaml)")
    asked = base.override(**parse_settings(settings))
    changed = [f for f in Recipe.model_fields if begun and getattr(asked, f) != getattr(begun, f)]
    if changed:
        raise UsageError(
            f"run {str(run)!r} was begun with another {changed[0]}, and goes on as it began: leave "
            "RECIPE and --set away, or choose another --run"
        )
    return asked
