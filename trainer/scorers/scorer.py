"""What every scorer offers, and opening those of a recipe."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from turnwise.agents.torch import load_model
from turnwise.trainer.scorers.sections import Critics, ImplicitReward, ScorerSection
from turnwise.trainer.stage import Columns
from turnwise.trainer.table import TurnTable


@dataclass(frozen=True, slots=True)
class Scored:
    """What a scorer made of a step's turns."""

    columns: Columns
    stats: Mapping[str, float]
    """For the metrics, by name."""


class Scorer(Protocol):
    """A model beside the policy."""

    def step(self, table: TurnTable, number: int) -> Scored:
        """Score the turns of training step ``number`` (from 1) and learn from them.

        Raises :class:`~turnwise.trainer.learner.DivergedError` for what is not finite.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Weights, optimiser and memory, of tensors and plain values, for the checkpoint."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        ...


def open_scorers(
    sections: Sequence[ScorerSection],
    start: PreTrainedModel | Path,
    *,
    temperature: float,
    seed: int,
    device: str = "auto",
) -> dict[str, Scorer]:
    """A recipe's scorers by kind, each beginning as the policy did: ``start`` is that model, or its folder.

    ``temperature`` is what the policy samples at.
    """
    from turnwise.trainer.scorers.critics import CriticsScorer
    from turnwise.trainer.scorers.implicit import ImplicitScorer

    scorers: dict[str, Scorer] = {}
    for section in sections:
        model = load_model(start, device=device) if isinstance(start, Path) else copy.deepcopy(start)
        match section:
            case ImplicitReward():
                scorers[section.kind] = ImplicitScorer(section, model, temperature, seed)
            case Critics():
                scorers[section.kind] = CriticsScorer(section, model, seed)
    return scorers


def save_scorers(scorers: Mapping[str, Scorer], folder: Path) -> None:
    """Write the state of each into a folder."""
    for kind, scorer in scorers.items():
        with (folder / f"scorer-{kind}.pt").open("wb") as file:
            torch.save(scorer.state(), file)


def load_scorers(scorers: Mapping[str, Scorer], folder: Path) -> None:
    """Read what :func:`save_scorers` wrote."""
    for kind, scorer in scorers.items():
        scorer.load(torch.load(folder / f"scorer-{kind}.pt", weights_only=True))
