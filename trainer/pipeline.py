"""A recipe's stages of credit as a graph: checked before anything starts, then run in order.

Who needs what decides the order, not the list; what cannot work is refused with the reason, because a
training run that fails after an hour, or worse learns from the wrong column, is dearer than a message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter

import numpy as np

from turnwise.envs.errors import UsageError
from turnwise.trainer.grouping import Array
from turnwise.trainer.scorers.sections import scorer_giving
from turnwise.trainer.stage import BoundStage, State, stages
from turnwise.trainer.table import TurnTable

ADVANTAGE = "advantage"
"""The column that every graph must end in."""


@dataclass(frozen=True, slots=True)
class Credit:
    """What a pipeline made of a batch."""

    table: TurnTable
    """With the columns of every stage."""
    state: Mapping[str, State]
    """By stage label, for the checkpoint and the next batch."""
    groups: int
    groups_of_one: int
    """Groups left with a single episode: nothing to compare with."""
    groups_without_signal: int
    """Groups in which every advantage is exactly 0; they train nothing."""

    @property
    def advantage(self) -> Array:
        """[turns]."""
        return self.table[ADVANTAGE]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Stages in the order in which they run, by label: the name, numbered where it comes twice."""

    stages: Mapping[str, BoundStage]

    @classmethod
    def build(cls, listed: Sequence[BoundStage], available: Iterable[str], group_size: int) -> Pipeline:
        """Order stages by what they need, or refuse.

        ``available`` are the columns that the environment gives
        (:func:`~turnwise.trainer.columns.base_columns`), ``group_size`` the episodes per task. Raises
        ``UsageError`` for a column that is missing or given twice, a cycle, stages that contradict one
        another, groups of one where a stage compares within groups, and where no ``advantage`` comes out.
        """
        base = list(available)
        labelled = dict(zip(_labels(listed), listed, strict=True))
        providers = _providers(labelled, base)
        _check_companions(labelled, providers)
        _check_needs(labelled, providers, base)
        _check_agreement(labelled)
        if ADVANTAGE not in providers:
            raise UsageError(
                f"no stage provides 'advantage', which the loss is computed from; add one of: "
                f"{', '.join(_could_provide(ADVANTAGE))}"
            )
        if group_size < 2:
            for label, node in labelled.items():
                if node.stage.scope == "group":
                    raise UsageError(
                        f"stage {label!r} compares episodes of one task, and rollout.group is {group_size}; "
                        f"make it 2 or more"
                    )
        return cls({label: labelled[label] for label in _ordered(labelled, providers)})

    def run(self, table: TurnTable, state: Mapping[str, State]) -> Credit:
        """Give a batch its credit. ``state`` is what the last batch left, empty at the start.

        Raises ``UsageError`` for state of a stage that is not here, and what the stages raise.
        """
        strangers = set(state) - set(self.stages)
        if strangers:
            raise UsageError(
                f"there is state of stages that this recipe lacks: {', '.join(sorted(strangers))}"
            )
        after = dict(state)
        for label, node in self.stages.items():
            columns, kept = node.apply(table, state.get(label, {}))
            table = table.with_columns(columns)
            if node.stage.stateful:
                after[label] = kept
        strongest = table.by_group.max(np.abs(table[ADVANTAGE]))
        return Credit(
            table=table,
            state=after,
            groups=table.episodes_by_group.count,
            groups_of_one=int(np.sum(table.episodes_by_group.size == 1)),
            groups_without_signal=int(np.sum(strongest == 0)),
        )


def _labels(listed: Sequence[BoundStage]) -> list[str]:
    seen: Counter[str] = Counter()
    labels = []
    for node in listed:
        seen[node.name] += 1
        labels.append(node.name if seen[node.name] == 1 else f"{node.name}#{seen[node.name]}")
    return labels


def _could_provide(column: str) -> list[str]:
    return [name for name, stage in stages().items() if stage.could_provide(column)]


def _providers(labelled: Mapping[str, BoundStage], base: Sequence[str]) -> dict[str, str]:
    """Which stage provides each column."""
    providers: dict[str, str] = {}
    for label, node in labelled.items():
        for column in node.provides:
            if column in base:
                raise UsageError(f"stage {label!r} provides column {column!r}, which the environment gives")
            if column in providers:
                raise UsageError(
                    f"stages {providers[column]!r} and {label!r} both provide column {column!r}; keep one"
                )
            providers[column] = label
    return providers


def _check_companions(labelled: Mapping[str, BoundStage], providers: Mapping[str, str]) -> None:
    for label, node in labelled.items():
        for column, why in node.beside.items():
            if column not in providers:
                raise UsageError(
                    f"stage {label!r} must stand beside one that provides column {column!r} "
                    f"({', '.join(_could_provide(column)) or 'none is known'}): {why}"
                )


def _check_needs(
    labelled: Mapping[str, BoundStage], providers: Mapping[str, str], base: Sequence[str]
) -> None:
    for label, node in labelled.items():
        for need in node.needs:
            if not any(fnmatchcase(column, need) for column in (*base, *providers)):
                raise UsageError(f"stage {label!r} needs column {need!r}, {_remedy(need, providers, base)}")


def _remedy(need: str, providers: Mapping[str, str], base: Sequence[str]) -> str:
    """Why a column is missing, and what would give it."""
    family, colon, _ = need.partition(":")
    if colon and family in ("milestone", "channel"):
        declared = [column for column in base if column.startswith(f"{family}:")]
        return f"but the environment declares {', '.join(declared) or f'no {family}s'}"
    if need in ("progress", "potential_before", "potential_after"):
        return "but the environment declares no milestones to measure progress with"
    scorer = scorer_giving(need)
    if scorer:
        return f"which a scorer gives; add scorers: [{{kind: {scorer}}}]"
    could = _could_provide(need)
    if could:
        return f"which nothing here provides; add one of: {', '.join(could)}"
    near = get_close_matches(need, [*base, *providers], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"which nothing provides{hint} (there is: {', '.join([*base, *providers])})"


def _check_agreement(labelled: Mapping[str, BoundStage]) -> None:
    """Parameters that several stages name as common must be equal."""
    first: dict[str, tuple[str, object]] = {}
    for label, node in labelled.items():
        for name in node.stage.agree:
            value = getattr(node.params, name)
            other, expected = first.setdefault(name, (label, value))
            if value != expected:
                raise UsageError(
                    f"stages {other!r} and {label!r} must agree on {name}: {expected} is not {value}"
                )


def _ordered(labelled: Mapping[str, BoundStage], providers: Mapping[str, str]) -> list[str]:
    """Every stage after those it needs; among the ready ones, in the order of the list."""
    graph = {
        label: {by for need in node.needs for column, by in providers.items() if fnmatchcase(column, need)}
        for label, node in labelled.items()
    }
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        raise UsageError(f"stages need one another in a circle: {' -> '.join(error.args[1])}") from None
    place = {label: number for number, label in enumerate(labelled)}
    ordered: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=place.__getitem__)
        ordered += ready
        sorter.done(*ready)
    return ordered
