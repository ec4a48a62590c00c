"""Beginning runs from a warm start that was done once.

A warm start depends on a part of the recipe only: recipes of one seed that agree in it would all do the
same work. :func:`warm_up` does it in a folder of its own, an ordinary run's, and :func:`begin_from` begins
each recipe's run with the state it left: weights, demonstrations, metrics, and the seconds it took, so that
the run is what it would have been had it done the warm start itself.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from turnwise.envs.errors import UsageError
from turnwise.trainer import run_folder
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.run_folder import Run
from turnwise.trainer.setup import DEMONSTRATIONS, TOKENIZER, open_parts, prepare
from turnwise.trainer.tracker import Tracker, Watcher
from turnwise.trainer.train import TrainingLoop

AFTERWARDS = {"name", "description", "credit", "scorers", "loss", "optimizer", "steps"}
"""Fields of a recipe that nothing depends on until reinforcement begins."""
STATE = ("checkpoints", "metrics.jsonl", DEMONSTRATIONS, TOKENIZER)
"""What a warm start leaves to go on with."""


def start_of(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that its warm start depends on; of the guards it is the one against exclusions."""
    content = recipe.model_dump(mode="json", exclude=AFTERWARDS)
    return content | {"guards": {"excluded": recipe.guards.excluded}}


async def warm_up(
    recipe: Recipe,
    *,
    run: str | Path,
    tracker: Tracker,
    watcher: Watcher | None = None,
) -> Run:
    """Do a recipe's warm start, and nothing after it; one that was interrupted goes on."""
    folder = Path(run)
    plan = prepare(recipe)
    if not run_folder.begun(folder):
        run_folder.create(folder, recipe)
    with run_folder.locked(folder):
        run_folder.sweep(folder)
        async with open_parts(plan, folder, watcher) as parts:
            return await TrainingLoop(parts, [tracker], watcher).run(reinforce=False)


def begin_from(warm: Path, folder: Path, recipe: Recipe) -> None:
    """Begin a recipe's run with the warm start of another folder, whole or not at all;
    ``train(..., resume=True)`` goes on with it.

    Raises ``UsageError`` where the folder holds something already, and where the recipe's own warm start
    would have been another.
    """
    done, wanted = start_of(run_folder.stored_recipe(warm)), start_of(recipe)
    differing = [name for name in wanted if wanted[name] != done[name]]
    if differing:
        raise UsageError(
            f"run {str(folder)!r} cannot begin with the warm start of {str(warm)!r}, which was done with "
            f"another {differing[0]}"
        )
    run_folder.claim(folder)
    scratch = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    with run_folder.writing(folder):
        for name in STATE:
            if (warm / name).is_dir():
                shutil.copytree(warm / name, scratch / name)
            elif (warm / name).exists():
                shutil.copy2(warm / name, scratch / name)
        run_folder.begin(scratch, recipe)
        scratch.replace(folder)
