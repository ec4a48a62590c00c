"""``turnwise rescore``: what another recipe would have made of a run, turn by turn."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Credit a run's turns anew, by another recipe.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--recipe", required=True, help="A name from `turnwise recipes`, or a path that ends in .yaml.")
@click.option("--step", type=int, help="Only this training step; all of them by default.")
@click.option("--episode", help="The episode to show; the one that differs most by default.")
def rescore(run: Path, recipe: str, step: int | None, episode: str | None) -> None:
    """Credit the stored episodes of RUN anew, by another recipe's stages.

    Shows old and new reward and advantage side by side, and where they differ most; writes
    RUN/rescore-RECIPE.html. Nothing is trained.

    \b
    Examples:
      turnwise rescore runs/a --recipe quickstart-outcome
      turnwise rescore runs/a --recipe quickstart-outcome --step 12
      turnwise rescore runs/a --recipe mine.yaml --episode train-40/3-1
    """
    from turnwise.trainer.recipe import Recipe
    from turnwise.viewer.console import make_console
    from turnwise.viewer.rescore import PAGED, pair_view, rescore_view, rescored, write_rescore
    from turnwise.viewer.run_folder import RunFolder

    result = rescored(RunFolder(run), Recipe.load(recipe), step)
    differing = result.turns.most_different()
    first = result.pair(episode or differing[0])
    shown = [first.shown.episode.episode_id, *(name for name in differing if name != episode)]
    page = write_rescore(result, list(dict.fromkeys(shown))[:PAGED])
    console = make_console()
    console.print(rescore_view(result))
    console.print("\nSide by side" if episode else "\nThe episode that differs most", style="bold underline")
    console.print(pair_view(first))
    console.print(f"\nAs a page: {page}", soft_wrap=True)
