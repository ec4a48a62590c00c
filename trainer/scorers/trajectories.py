"""Episodes as a scorer's model reads them: sequences of tokens, the places that the learner wrote, and
which episode and group they belong to.

Unlike what the policy is trained on, an episode here is whole: a turn shared with another episode counts
in both. A group carries all a scorer needs to learn from it again later, so that it can be remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from turnwise.agents.torch import sequence_logprobs
from turnwise.trainer.grouping import Array
from turnwise.trainer.table import TurnTable

MAX_PLACES = 2048
"""Tokens of one forward pass, padding counted; a single group or sequence may be larger."""


class HasIds(Protocol):
    """A sequence of tokens that a model reads."""

    @property
    def ids(self) -> Array:
        """The tokens."""
        ...


Read = TypeVar("Read", bound=HasIds)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One sequence of an episode: what one context held."""

    ids: Array
    written: Array
    """Places in ``ids`` of the tokens that the learner wrote, in order."""
    reference: Array
    """Log-probability of each written token under the reference, float32."""
    tokens: Array
    """Where the written tokens lie in the table's token columns; empty in a remembered one."""
    episode: int
    """Which of its group's episodes."""


@dataclass(frozen=True, slots=True)
class Group:
    """The episodes of one task."""

    trajectories: tuple[Trajectory, ...]
    success: Array
    """bool [episodes]."""
    turns: Array
    """Turns of each episode in which the learner wrote, int [episodes]."""

    @property
    def mixed(self) -> bool:
        """Whether there is both a success and a failure."""
        return bool(self.success.any() and not self.success.all())

    @property
    def pairs(self) -> int:
        """How many pairs of a success and a failure."""
        return int(self.success.sum() * (~self.success).sum())

    @property
    def width(self) -> int:
        """Tokens of its longest sequence."""
        return max(len(trajectory.ids) for trajectory in self.trajectories)


def groups_of(table: TurnTable, success: float) -> list[Group]:
    """The groups of a table, those without a written token left out; an episode whose score is at least
    ``success`` is a success. The reference is what the tokens were sampled with."""
    sequences = table.sequences()
    tokens = table.tokens
    succeeded = table.by_episode.max(table.outcome) >= success
    wrote = ~np.isnan(table.gather(np.ones(len(tokens.ids))))
    turns = table.by_episode.sum(wrote).astype(np.int64)
    found: dict[int, list[tuple[int, Trajectory]]] = {}
    for i, episode in enumerate(sequences.episode.tolist()):
        where = sequences.tokens[sequences.offsets[i] : sequences.offsets[i + 1]]
        written = np.flatnonzero(tokens.trainable[where])
        written = written[written > 0]  # nothing comes before the first token that it could follow from
        if len(written):
            reference = tokens.logprobs[where[written]]
            trajectory = Trajectory(tokens.ids[where], written, reference, where[written], episode)
            found.setdefault(int(table.episode_group[episode]), []).append((episode, trajectory))
    return [_group(entries, succeeded, turns) for _, entries in sorted(found.items())]


def _group(entries: Sequence[tuple[int, Trajectory]], succeeded: Array, turns: Array) -> Group:
    episodes = sorted({episode for episode, _ in entries})
    place = {episode: number for number, episode in enumerate(episodes)}
    return Group(
        trajectories=tuple(
            Trajectory(t.ids, t.written, t.reference, t.tokens, place[episode]) for episode, t in entries
        ),
        success=succeeded[episodes],
        turns=turns[episodes],
    )


def written_logprobs(
    model: PreTrainedModel, trajectories: Sequence[Trajectory], temperature: float
) -> Tensor:
    """Log-probabilities of all written tokens, trajectory after trajectory, in one forward pass: ``[N]``,
    float32, differentiable."""
    width = max(len(t.ids) for t in trajectories)
    ids = np.zeros((len(trajectories), width), dtype=np.int64)
    for row, trajectory in enumerate(trajectories):
        ids[row, : len(trajectory.ids)] = trajectory.ids
    places = np.concatenate([row * (width - 1) + t.written - 1 for row, t in enumerate(trajectories)])
    logprobs = sequence_logprobs(model, torch.from_numpy(ids).to(model.device), temperature=temperature)
    return logprobs.flatten()[torch.from_numpy(places).to(model.device)]


def packed(trajectories: Sequence[Read]) -> Iterator[list[Read]]:
    """Sequences of similar length together, as many as one forward pass takes."""
    batch: list[Read] = []
    for trajectory in sorted(trajectories, key=lambda t: len(t.ids)):
        if batch and (len(batch) + 1) * len(trajectory.ids) > MAX_PLACES:
            yield batch
            batch = []
        batch.append(trajectory)
    if batch:
        yield batch


def packed_groups(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Groups of similar width together, whole, as many as one forward pass takes."""
    batch: list[Group] = []
    rows = 0
    for group in sorted(groups, key=lambda g: g.width):
        if batch and (rows + len(group.trajectories)) * group.width > MAX_PLACES:
            yield batch
            batch, rows = [], 0
        batch.append(group)
        rows += len(group.trajectories)
    if batch:
        yield batch
