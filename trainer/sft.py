"""Supervised fine-tuning as a run of its own: the warm start, without what comes after it.

The folder it leaves is an ordinary run's: ``turnwise train --resume`` goes on with reinforcement from it,
and ``turnwise eval`` takes it as a policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from turnwise.agents.evaluate import model_folder
from turnwise.agents.store import write_episodes
from turnwise.agents.tokenizer import load_tokenizer
from turnwise.envs.errors import UsageError
from turnwise.trainer import run_folder
from turnwise.trainer.demonstrations import successes
from turnwise.trainer.recipe import FolderModel, Recipe, WarmStart
from turnwise.trainer.run_folder import Run
from turnwise.trainer.setup import DEMONSTRATIONS, TOKENIZER, open_parts, prepare
from turnwise.trainer.tracker import Tracker, Watcher
from turnwise.trainer.train import TrainingLoop


async def sft(
    recipe: Recipe,
    *,
    run: str | Path,
    source: str | Path | None = None,
    trackers: Sequence[Tracker] = (),
    watcher: Watcher | None = None,
) -> Run:
    """Warm-start a recipe's model until its gate, into a folder of its own.

    It imitates the environment's demonstrator, or with ``source`` the successful training episodes of
    that run, whose tokenizer it takes over. Raises ``UsageError`` where the run has none.
    """
    folder = Path(run)
    if recipe.warm_start is None:
        recipe = recipe.override(warm_start=WarmStart().model_dump(mode="json"))
    plan = prepare(recipe)
    await asyncio.to_thread(_create, folder, recipe, None if source is None else Path(source))
    with run_folder.locked(folder):
        async with open_parts(plan, folder, watcher) as parts:
            return await TrainingLoop(parts, trackers, watcher).run(reinforce=False)


def _create(folder: Path, recipe: Recipe, source: Path | None) -> None:
    """The folder, with what it imitates where that comes from another run."""
    if source is None:
        run_folder.create(folder, recipe)
        return
    episodes, tokenizer = successes(source), load_tokenizer(model_folder(source))
    if isinstance(recipe.model, FolderModel):
        own = load_tokenizer(Path(recipe.model.path))
        if own.get_vocab() != tokenizer.get_vocab():
            raise UsageError(
                f"run {str(source)!r} was written with another tokenizer than that of "
                f"model.path={recipe.model.path!r}, which cannot read it"
            )
    run_folder.claim(folder)
    with run_folder.writing(folder / DEMONSTRATIONS):
        tokenizer.save_pretrained(folder / TOKENIZER)
        write_episodes(folder / DEMONSTRATIONS, episodes)
    run_folder.begin(folder, recipe)
