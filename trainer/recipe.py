"""Recipes: everything a training run is, in one small document.

A recipe is built in (a name), a YAML file (a path), or either of them with some of it overridden. It is
checked when it is read: unknown fields, values that do not fit and stages that do not exist are refused
in one line with the nearest match; the graph of stages is checked against an environment by
:meth:`Recipe.pipeline`, before anything starts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, PositiveInt, ValidationError, field_validator

from turnwise.envs.errors import UsageError, invalid, unknown
from turnwise.envs.registry import EnvSpec
from turnwise.sandbox.backends import load
from turnwise.trainer.pipeline import Pipeline
from turnwise.trainer.scorers.sections import ScorerSection
from turnwise.trainer.section import Section
from turnwise.trainer.sections import (
    ClipLoss,
    Evaluate,
    FolderModel,
    Guards,
    LossSection,
    ModelSection,
    Optimizer,
    RegressionLoss,
    Rollout,
    StageRef,
    TinyModel,
    WarmStart,
    WeightedLoss,
)

__all__ = [
    "ClipLoss",
    "Evaluate",
    "FolderModel",
    "Guards",
    "LossSection",
    "Optimizer",
    "Recipe",
    "RegressionLoss",
    "Rollout",
    "StageRef",
    "TinyModel",
    "WarmStart",
    "WeightedLoss",
    "built_in",
    "parse_settings",
]

BUILT_IN = Path(__file__).parent / "recipes"


class Recipe(Section):
    """What to train, on what, with which credit."""

    name: str
    """What it is called in results."""
    description: str = ""
    """What it is for, and what is known of it."""
    env: EnvSpec
    """The environment with its options; ``family/name?option=value`` for short."""
    credit: tuple[StageRef, ...]
    """Stages that turn rewards into an advantage per turn. What they need decides their order."""
    scorers: tuple[ScorerSection, ...] = ()
    """Models beside the policy whose scores the stages of credit may read."""
    model: ModelSection = TinyModel()
    """The policy's network."""
    warm_start: WarmStart | None = None
    """Imitation first; null where the model already succeeds at times."""
    rollout: Rollout = Rollout()
    optimizer: Optimizer = Optimizer()
    loss: LossSection = ClipLoss()
    steps: PositiveInt = 40
    """Training steps, each of ``rollout.tasks * rollout.group`` episodes."""
    evaluate: Evaluate = Evaluate()
    seed: int = Field(default=0, ge=0)
    """Of tasks, sampling and weights."""
    deterministic: bool = False
    """Lockstep waves and fixed shapes: slower, and a resumed run equals an unbroken one bit for bit."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network computes."""
    backend: str = "auto"
    """What sandboxes are made by; ``auto`` takes the best that runs here, ``docker:runsc`` is a variant."""
    guards: Guards = Guards()

    @field_validator("backend")
    @classmethod
    def _known_backend(cls, value: str) -> str:
        try:
            return value if value == "auto" else load(value).name
        except ValueError as error:
            raise UsageError(str(error).removeprefix("sandbox backend: ")) from None

    @field_validator("env", mode="before")
    @classmethod
    def _short_env(cls, value: object) -> object:
        return EnvSpec.parse(value) if isinstance(value, str) else value

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """A built-in recipe by name, or one from a YAML file. Raises ``UsageError``."""
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            known = built_in()
            if str(name_or_path) not in known:
                raise unknown("recipe", str(name_or_path), [*known, "a path ending in .yaml"])
            path = known[str(name_or_path)]
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"recipe {path}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"recipe {path}: not YAML: {' '.join(str(error).split())}") from None
        return cls.read(content, f"recipe {name_or_path}")

    @classmethod
    def read(cls, content: object, what: str = "recipe") -> Self:
        """A recipe from a mapping; ``what`` names its origin in errors. Raises ``UsageError``."""
        if not isinstance(content, Mapping):
            raise UsageError(f"{what}: must be a mapping of sections, not {type(content).__name__}")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise invalid(what, error, cls) from None

    def override(self, **changes: Any) -> Self:
        """This recipe with some of it changed, checked again. Raises ``UsageError``.

        Keys are sections with nested mappings, which are merged, or dotted paths:
        ``override(rollout={"group": 4})`` is ``override(**{"rollout.group": 4})``. Lists are replaced,
        and so is a mapping whose ``kind`` or ``name`` changes.
        """
        nested: dict[str, Any] = {}
        for key, value in changes.items():
            *sections, field = key.split(".")
            for section in reversed([*sections, field]):
                value = {section: value}
            nested = _merged(nested, value)
        content = _merged(self.model_dump(mode="json"), nested)
        return self.read(content, f"recipe {self.name}")

    def pipeline(self, env_columns: Iterable[str]) -> Pipeline:
        """The stages in order, for an environment that gives these columns
        (:func:`~turnwise.trainer.columns.base_columns`), to which the recipe's scorers add theirs. Raises
        ``UsageError`` for a graph that cannot work."""
        given = list(env_columns)
        for scorer in self.scorers:
            if not set(scorer.needs) <= set(given):
                raise UsageError(
                    f"recipe {self.name}: scorers: {scorer.kind} learns progress, and the environment "
                    "declares no milestones; give it some, or set potential: false"
                )
        scored = [column for scorer in self.scorers for column in scorer.columns]
        twice = [name for name, count in Counter(scored).items() if count > 1]
        if twice:
            raise UsageError(f"recipe {self.name}: scorers: two of them give {twice[0]!r}; keep one")
        try:
            stages = [ref.bind() for ref in self.credit]
            return Pipeline.build(stages, [*given, *scored], self.rollout.group)
        except UsageError as error:
            raise UsageError(f"recipe {self.name}: credit: {error}") from None

    def to_yaml(self) -> str:
        """The whole recipe, defaults included, in a fixed order; ``load`` reads it back equal."""
        content = self.model_dump(mode="json")
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON Schema of a recipe, with every stage known now."""
        return cls.model_json_schema()


def built_in() -> dict[str, Path]:
    """The recipes that ship with the package, by name."""
    return {path.stem: path for path in sorted(BUILT_IN.glob("*.yaml"))}


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """``key=value`` words of a command line as arguments of :meth:`Recipe.override`.

    Values are YAML: ``rollout.group=4``, ``credit=[decay, grpo]``, ``warm_start=null``. Raises
    ``UsageError``.
    """
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"setting {setting!r}: write it as key=value, as in rollout.group=4")
        try:
            changes[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"setting {setting!r}: not YAML: {' '.join(str(error).split())}") from None
    return changes


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        old = base.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            other = any(tag in value and value[tag] != old.get(tag, value[tag]) for tag in ("kind", "name"))
            result[key] = value if other else _merged(old, value)
        else:
            result[key] = value
    return result
