"""What is compared, frozen before the first run.

The manifest holds everything that could tilt a comparison afterwards: every recipe with all its settings,
the seeds, the tasks by hash, the metrics and the tuning that each recipe is given. A folder has one, and
goes on with no other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any, Self

from pydantic import JsonValue

from turnwise.envs.errors import UsageError
from turnwise.envs.types import Model
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.run_folder import DRAFT, begun

MANIFEST = "manifest.json"
TUNING_OFFSET = 1000
"""From the first compared seed to the first tuning seed: there can be no more compared seeds than that."""
METRICS = {
    "held_out_success": "sampled success on the first tasks of the test split, after the last step",
    "curve_mean": "mean of success over all evaluations of a run on its validation split, step 0 included",
}


class Panel(Model):
    """The tasks of an evaluation."""

    split: str
    tasks: int
    """The first so many of the split."""
    task_set_hash: str

    @classmethod
    def of(cls, recipe: Recipe, split: str) -> Self:
        """The panel of a recipe's environment. Raises ``UsageError`` where there is no such environment."""
        task_set = recipe.env.make().task_set(split)
        return cls(split=split, tasks=recipe.evaluate.tasks, task_set_hash=task_set.hash)


class Tuning(Model):
    """What is tried for every recipe, on seeds apart from the compared ones."""

    grid: dict[str, tuple[JsonValue, ...]]
    """Settings with the values tried."""
    seeds: tuple[int, ...]
    chosen_by: str = "curve_mean"

    @property
    def trials(self) -> list[dict[str, JsonValue]]:
        """The settings of each trial; without a grid there are none."""
        if not self.grid:
            return []
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]


class Manifest(Model):
    """Everything that is fixed before the first run: ``manifest.json``."""

    recipes: tuple[Recipe, ...]
    seeds: tuple[int, ...]
    metrics: dict[str, str] = METRICS
    validation: Panel
    test: Panel
    tuning: Tuning
    command: str
    """What made it."""

    def recipe(self, name: str) -> Recipe:
        """A recipe by its name."""
        return next(recipe for recipe in self.recipes if recipe.name == name)

    def candidates(self) -> Iterator[Recipe]:
        """Every recipe that may be run, but for its seed."""
        for recipe in self.recipes:
            yield recipe
            for settings in self.tuning.trials:
                yield recipe.override(**settings)


def plan_comparison(
    recipes: Sequence[Recipe],
    *,
    seeds: int,
    first_seed: int = 0,
    tune: Mapping[str, Sequence[JsonValue]] | None = None,
    tune_seeds: int = 2,
    command: str = "",
) -> Manifest:
    """Check that recipes can be compared, and say how. Raises ``UsageError``."""
    _check_counts(recipes, seeds, first_seed, tune_seeds)
    grid = {key: tuple(values) for key, values in (tune or {}).items()}
    for key, values in grid.items():
        if len(values) < 2 or any(a == b for a, b in combinations(values, 2)):
            raise UsageError(f"tuning {key}: give two values or more, each once; one alone is a setting")
    first = first_seed + TUNING_OFFSET
    tuning = Tuning(grid=grid, seeds=tuple(range(first, first + tune_seeds)) if grid else ())
    manifest = Manifest(
        recipes=tuple(recipes),
        seeds=tuple(range(first_seed, first_seed + seeds)),
        validation=Panel.of(recipes[0], recipes[0].evaluate.split),
        test=Panel.of(recipes[0], "test"),
        tuning=tuning,
        command=command,
    )
    for candidate in manifest.candidates():
        _check_candidate(candidate, recipes[0])
    return manifest


def _check_counts(recipes: Sequence[Recipe], seeds: int, first_seed: int, tune_seeds: int) -> None:
    if len(recipes) < 2:
        raise UsageError(f"{len(recipes)} recipe: a comparison needs two or more")
    if not 1 <= seeds <= TUNING_OFFSET:
        raise UsageError(f"seeds={seeds}: must be from 1 to {TUNING_OFFSET}")
    if first_seed < 0 or tune_seeds < 1:
        raise UsageError(f"first_seed={first_seed}, tune_seeds={tune_seeds}: at least 0 and 1")
    for a, b in combinations(recipes, 2):
        if folder_name(a.name) == folder_name(b.name):
            raise UsageError(f"two recipes are named {b.name!r}: give one another name, in its YAML file")


def _check_candidate(recipe: Recipe, first: Recipe) -> None:
    if recipe.seed != 0:
        raise UsageError(f"recipe {recipe.name}: seed={recipe.seed}: the seeds are those of the comparison")
    if recipe.evaluate.stop_at is not None:
        raise UsageError(
            f"recipe {recipe.name}: evaluate.stop_at={recipe.evaluate.stop_at}: a comparison needs whole "
            "curves; set it to null"
        )
    difference = first_difference(_common(first), _common(recipe), "")
    if difference is not None:
        where, a, b = difference
        raise UsageError(
            f"recipes {first.name} and {recipe.name} are not comparable: {where} is {a} and {b}; set it "
            "to the same for all"
        )


def _common(recipe: Recipe) -> dict[str, Any]:
    """What recipes must agree in to be comparable: tasks, evaluations and the number of episodes."""
    options = recipe.env.make().options.model_dump(mode="json")
    return {
        "env": {"name": recipe.env.name, "options": options},
        "evaluate": recipe.evaluate.model_dump(mode="json"),
        "steps": recipe.steps,
        "rollout": {"tasks": recipe.rollout.tasks, "group": recipe.rollout.group},
    }


def first_difference(a: Any, b: Any, path: str) -> tuple[str, str, str] | None:
    """Where two JSON values differ first, with both values there; None where they are equal."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys([*a, *b]):
            inner = f"{path}.{key}" if path else str(key)
            found = first_difference(a.get(key), b.get(key), inner)
            if found is not None:
                return found
        return None
    return None if a == b else (path, _short(a), _short(b))


def _short(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def freeze(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into a new folder, or see that an existing one has the same.

    Raises ``UsageError`` for a folder that was begun with another, or that is no comparison.
    """
    path = folder / MANIFEST
    if path.is_file():
        begun_with = _comparable(json.loads(path.read_text(encoding="utf-8")))
        difference = first_difference(begun_with, _comparable(manifest.model_dump(mode="json")), "")
        if difference is not None:
            where, old, new = difference
            raise UsageError(
                f"comparison {str(folder)!r} was begun with {where} = {old}, not {new}: repeat its command, "
                "or choose another folder"
            )
        return
    if folder.exists() and (not folder.is_dir() or begun(folder)):
        raise UsageError(f"{str(folder)!r} exists and is no comparison; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / DRAFT
        draft.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise UsageError(f"comparison {str(folder)!r} cannot be written: {error.strerror}") from None


def _comparable(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest's content with its recipes by name, apart from the words of the command."""
    recipes = {recipe["name"]: recipe for recipe in manifest["recipes"]}
    rest = {key: value for key, value in manifest.items() if key not in ("command", "recipes")}
    return {"recipe names": list(recipes), "recipes": recipes, **json.loads(json.dumps(rest))}


def folder_name(name: str) -> str:
    """A recipe's name as that of a folder."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".") or "recipe"
