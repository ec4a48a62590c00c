"""``turnwise train``: train a recipe into a run's folder, with live progress and a report at the end."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from turnwise.trainer.recipe import Recipe
    from turnwise.trainer.run_folder import Run
    from turnwise.trainer.tracker import Tracker
    from turnwise.viewer.progress import Progress


@click.command(short_help="Train a recipe.")
@click.argument("recipe", required=False)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change the recipe; repeatable.")
@click.option("--run", type=click.Path(path_type=Path), help="Its folder; runs/RECIPE-TIME by default.")
@click.option("--resume", is_flag=True, help="Go on with the run in --run from its newest checkpoint.")
@click.option(
    "--dry-run", is_flag=True, help="Check the recipe, say what it would do and what it lacks here."
)
@click.option("--track", multiple=True, metavar="NAME", help="Also log to tensorboard, wandb or mlflow.")
def train(
    recipe: str | None,
    settings: tuple[str, ...],
    run: Path | None,
    resume: bool,
    dry_run: bool,
    track: tuple[str, ...],
) -> None:
    """Train RECIPE: a name from `turnwise recipes`, or a path that ends in .yaml.

    Shows progress and ends with held-out success, an episode turn by turn and an HTML report. Ctrl-C, or a
    kill, loses at most the current step; --resume goes on.

    \b
    Examples:
      turnwise train quickstart
      turnwise train quickstart --set seed=3 --set rollout.group=16
      turnwise train swe-gated-7b --dry-run
      turnwise train --resume --run runs/a
    """
    from turnwise.cli.running import default_folder, follow
    from turnwise.cli.tracking import open_later
    from turnwise.viewer import report

    chosen = choose_recipe(recipe, settings, run, resume)
    if dry_run:
        show_plan(chosen)
        return
    folder = run or default_folder(chosen.name)
    others = open_later(track, folder)

    def start(progress: Progress) -> Coroutine[None, None, Run]:
        trackers: list[Tracker] = [progress, *others]
        return report.train(chosen, run=folder, resume=resume, trackers=trackers, watcher=progress)

    title = f"{chosen.name} on {chosen.env}, seed {chosen.seed}, in {folder}"
    follow(start, folder, title, chosen.steps)


def show_plan(recipe: Recipe) -> None:
    """Say what a recipe would do, and what it lacks here. Raises ``UsageError`` where it is wrong, also where
    there is nothing to train on."""
    from turnwise.trainer.setup import check_training_tasks, lacking, read
    from turnwise.viewer.console import make_console, pairs

    plan = read(recipe)
    rollout, missing = recipe.rollout, lacking(plan)
    if not missing:
        check_training_tasks(plan)
    episodes = rollout.tasks * rollout.group
    lines = [
        ("recipe", f"{recipe.name}, seed {recipe.seed}"),
        ("environment", str(recipe.env)),
        ("model", recipe.model.path if recipe.model.kind == "folder" else "made from nothing"),
        ("credit", " → ".join(stage.kind for stage in recipe.credit)),
        (
            "a step",
            f"{rollout.tasks} tasks × {rollout.group} = {episodes:,} episodes, {recipe.loss.kind} loss",
        ),
        ("training", f"{recipe.steps:,} steps, {episodes * recipe.steps:,} episodes"),
        (
            "evaluation",
            f"{recipe.evaluate.tasks} tasks of {recipe.evaluate.split}, every {recipe.evaluate.every} steps",
        ),
        ("held out", f"{recipe.evaluate.tasks} tasks of test, after the last step"),
        *(("lacks here", line) for line in missing),
        ("verdict", "the recipe is sound" + ("" if missing else ", and can be trained here")),
    ]
    make_console().print(pairs(lines))


def choose_recipe(name: str | None, settings: Sequence[str], run: Path | None, resume: bool) -> Recipe:
    """The recipe to train. Raises ``UsageError``, also where a run to resume was begun with another."""
    from turnwise.envs.errors import UsageError
    from turnwise.trainer.recipe import Recipe, built_in, parse_settings
    from turnwise.trainer.run_folder import stored_recipe
    from turnwise.viewer.run_folder import RunFolder

    if resume and run is None:
        raise UsageError("--resume needs --run DIR, the run to go on with")
    begun = None
    if resume and run is not None and (name is None or run.exists()):
        begun = stored_recipe(RunFolder(run).path)
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
