"""``turnwise sft``: imitation alone, of demonstrations or of another run's successes."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from turnwise.trainer.run_folder import Run
    from turnwise.viewer.progress import Progress


@click.command(short_help="Warm-start by imitation alone.")
@click.argument("recipe", required=False)
@click.option("--from", "source", type=click.Path(path_type=Path), help="Imitate the successes of this run.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change the recipe; repeatable.")
@click.option("--run", type=click.Path(path_type=Path), help="Its folder; runs/RECIPE-sft-TIME by default.")
def sft(recipe: str | None, source: Path | None, settings: tuple[str, ...], run: Path | None) -> None:
    """Warm-start RECIPE's model by imitation until its gate, and stop there.

    It imitates the environment's demonstrator, or with --from the successful training episodes of a run,
    whose recipe is then the default. `turnwise train --resume` goes on with reinforcement.

    \b
    Examples:
      turnwise sft quickstart --run runs/warm
      turnwise sft --from runs/a --run runs/b --set warm_start.gate=0.5
      turnwise train --resume --run runs/warm
    """
    from turnwise.cli.running import default_folder, follow
    from turnwise.envs.errors import UsageError
    from turnwise.trainer.recipe import Recipe, built_in, parse_settings
    from turnwise.trainer.run_folder import stored_recipe
    from turnwise.viewer import report
    from turnwise.viewer.run_folder import RunFolder

    taught_by = None if source is None else RunFolder(source).path
    if recipe is not None:
        base = Recipe.load(recipe)
    elif taught_by is not None:
        base = stored_recipe(taught_by)
    else:
        raise UsageError(f"which RECIPE, or --from which run? (recipes: {', '.join(built_in())})")
    chosen = base.override(**parse_settings(settings))
    folder = run or default_folder(f"{chosen.name}-sft")

    def start(progress: Progress) -> Coroutine[None, None, Run]:
        return report.sft(chosen, run=folder, source=taught_by, trackers=[progress], watcher=progress)

    title = f"{chosen.name} on {chosen.env}, seed {chosen.seed}, imitation alone, in {folder}"
    follow(start, folder, title, steps=0)
