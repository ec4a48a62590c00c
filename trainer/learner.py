"""The policy update: from a table with advantages to new weights.

One optimiser step per minibatch of episodes. A minibatch may be computed in several forward passes
(``max_tokens`` places each); the loss is divided by the minibatch's trainable tokens before it is
summed, so neither padding nor that division changes the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from turnwise.agents.torch import sequence_logprobs
from turnwise.trainer.batch import TokenBatch, TrainingData
from turnwise.trainer.loss import clipped_policy_loss
from turnwise.trainer.recipe import ClipLoss, Optimizer
from turnwise.trainer.table import TurnTable


class DivergedError(RuntimeError):
    """A loss or a gradient is no longer finite; the weights are those of before the step."""


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """Averages over the optimiser steps of one update."""

    loss: float = 0.0
    grad_norm: float = 0.0
    """Before clipping."""
    clipped: float = 0.0
    kl: float = 0.0
    tokens: int = 0
    """Tokens trained on, epochs counted."""
    optimizer_steps: int = 0


class Learner:
    """A model and its optimiser."""

    def __init__(self, model: PreTrainedModel, settings: Optimizer, loss: ClipLoss) -> None:
        self.model = model
        self.settings = settings
        self.loss = loss
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            foreach=True,
        )

    def update(self, table: TurnTable, *, temperature: float, seed: tuple[int, ...]) -> UpdateStats:
        """Train on every turn with an advantage. ``temperature`` is what the tokens were sampled at.

        Raises :class:`DivergedError` before a step that is not finite would be taken.
        """
        data = TrainingData.of(table)
        rng = np.random.default_rng(seed)
        rows: list[tuple[float, float, float, float]] = []
        tokens = 0
        for _ in range(self.settings.epochs):
            for minibatch in data.minibatches(self.settings.minibatch, rng):
                count = data.trainable_tokens(minibatch)
                batches = data.batches(minibatch, self.settings.max_tokens, self.model.device)
                rows.append(self._step(batches, count, temperature))
                tokens += count
        if not rows:
            return UpdateStats()
        loss, norm, clipped, kl = np.mean(rows, axis=0).tolist()
        return UpdateStats(loss, norm, clipped, kl, tokens, len(rows))

    def _step(
        self, batches: Iterable[TokenBatch], count: int, temperature: float
    ) -> tuple[float, float, float, float]:
        self.optimizer.zero_grad(set_to_none=True)
        total = clipped = kl = 0.0
        for batch in batches:
            logprobs = sequence_logprobs(self.model, batch.ids, temperature=temperature)
            result = clipped_policy_loss(
                logprobs.flatten()[batch.places],
                batch.old_logprobs,
                batch.advantages,
                batch.turns,
                ratio=self.loss.ratio,
                low=self.loss.low,
                high=self.loss.high,
                count=count,
            )
            torch.autograd.backward(result.loss)
            share = len(batch) / count
            total += result.loss.item()
            clipped += share * result.clipped.item()
            kl += share * result.kl.item()
        return total, self.apply_gradients(total), clipped, kl

    def apply_gradients(self, loss: float) -> float:
        """Clip, check and take the step; the gradient's norm before clipping."""
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.grad_clip))
        if not (math.isfinite(norm) and math.isfinite(loss)):
            raise DivergedError(f"loss {loss}, gradient norm {norm}: lower optimizer.lr or check the rewards")
        self.optimizer.step()
        return norm
