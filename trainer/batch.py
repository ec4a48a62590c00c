"""From the turn table to what a model trains on: padded token batches with a weight per token.

Sequences of similar length share a batch, padding is on the right, and everything the loss needs lies
flat over the trainable tokens, with their places in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from turnwise.trainer.columns import TOKEN
from turnwise.trainer.grouping import Array
from turnwise.trainer.table import TurnTable

TOKEN_ADVANTAGE = f"{TOKEN}advantage"


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """``ids`` ``[B, T]`` padded on the right; the rest is ``[N]`` over trainable tokens."""

    ids: Tensor
    places: Tensor
    """Index of each trainable token's log-probability in the flattened ``[B, T - 1]``."""
    old_logprobs: Tensor
    advantages: Tensor
    turns: Tensor
    """Each token's turn, numbered from 0 within the batch."""

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The sequences of a table that have something to teach, with their token columns in reading order."""

    ids: Array
    trainable: Array
    logprobs: Array
    advantages: Array
    rows: Array
    offsets: Array
    """Sequence ``i`` is ``offsets[i]:offsets[i + 1]`` of the columns above."""
    chosen: Array
    """Sequences with something to teach."""

    @classmethod
    def of(cls, table: TurnTable, *, zeros: bool = False) -> TrainingData:
        """Of a table with an ``advantage`` column, or with one per token, ``token:advantage``, which is
        then what counts; ``weight`` multiplies it. Sequences whose advantages are all 0 are left out,
        unless ``zeros`` says that these have a gradient too."""
        order = table.sequences()
        advantages = _per_token(table)[order.tokens]
        trainable = table.tokens.trainable[order.tokens] & order.owned
        trainable[order.offsets[:-1]] = False  # nothing comes before it that it could follow from
        telling = trainable if zeros else trainable & (advantages != 0)
        teaches = np.add.reduceat(telling.astype(np.int64), order.offsets[:-1]) > 0
        return cls(
            ids=table.tokens.ids[order.tokens],
            trainable=trainable,
            logprobs=table.tokens.logprobs[order.tokens],
            advantages=advantages,
            rows=table.tokens.row[order.tokens],
            offsets=order.offsets,
            chosen=np.flatnonzero(teaches),
        )

    def minibatches(self, size: int, rng: np.random.Generator) -> Iterator[Array]:
        """The chosen sequences in random order, ``size`` at a time."""
        order = rng.permutation(self.chosen)
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def batches(self, sequences: Array, max_tokens: int, device: torch.device) -> Iterator[TokenBatch]:
        """The sequences of a minibatch as padded batches of at most ``max_tokens`` places each; a
        sequence that is longer has a batch to itself."""
        lengths = (self.offsets[1:] - self.offsets[:-1])[sequences]
        order = np.argsort(lengths, kind="stable")
        start = 0
        for end in range(1, len(order) + 1):
            if end == len(order) or (end + 1 - start) * lengths[order[end]] > max_tokens:
                yield self._pad(sequences[order[start:end]], device)
                start = end

    def trainable_tokens(self, sequences: Array) -> int:
        """How many tokens of these sequences the loss is over."""
        return int(sum(self.trainable[self.offsets[s] : self.offsets[s + 1]].sum() for s in sequences))

    def trainable_turns(self, sequences: Array) -> int:
        """How many turns these tokens are of."""
        places = np.concatenate([np.arange(self.offsets[s], self.offsets[s + 1]) for s in sequences])
        return len(np.unique(self.rows[places[self.trainable[places]]]))

    def _pad(self, sequences: Array, device: torch.device) -> TokenBatch:
        lengths = self.offsets[sequences + 1] - self.offsets[sequences]
        width = int(lengths.max())
        flat = np.concatenate([np.arange(self.offsets[s], self.offsets[s + 1]) for s in sequences])
        row = np.repeat(np.arange(len(sequences)), lengths)
        column = np.concatenate([np.arange(n) for n in lengths])
        ids = np.zeros((len(sequences), width), dtype=np.int64)
        ids[row, column] = self.ids[flat]
        taught = self.trainable[flat]
        picked = flat[taught]
        _, turns = np.unique(self.rows[picked], return_inverse=True)
        return TokenBatch(
            ids=torch.from_numpy(ids).to(device),
            places=torch.from_numpy(row[taught] * (width - 1) + column[taught] - 1).to(device),
            old_logprobs=torch.from_numpy(self.logprobs[picked]).to(device),
            advantages=torch.from_numpy(self.advantages[picked].astype(np.float32)).to(device),
            turns=torch.from_numpy(turns.reshape(-1)).to(device),
        )


def _per_token(table: TurnTable) -> Array:
    """What every token of a table is trained with, 0 where the learner did not write it."""
    if TOKEN_ADVANTAGE not in table:
        return table.expand(table["advantage"] * table.weight)
    tokens = table.tokens
    return np.where(tokens.trainable, table[TOKEN_ADVANTAGE] * table.weight[tokens.row], 0.0)
