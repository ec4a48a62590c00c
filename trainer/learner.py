"""The policy update: from a table with advantages to new weights.

One optimiser step per minibatch of episodes. A minibatch may be computed in several forward passes
(``max_tokens`` places each); the loss is divided by the minibatch's trainable tokens, or its turns where
these are regressed on, before it is summed, so neither padding nor that division changes the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from turnwise.agents.torch import sequence_logprobs
from turnwise.trainer.batch import TokenBatch, TrainingData
from turnwise.trainer.loss import PolicyLoss, clipped_policy_loss, regression_loss, weighted_loss
from turnwise.trainer.recipe import ClipLoss, LossSection, Optimizer, RegressionLoss, WeightedLoss
from turnwise.trainer.table import TurnTable

LOWER_RATE = "lower optimizer.lr or check the rewards"


class DivergedError(RuntimeError):
    """A loss or a gradient is no longer finite; the weights are those of before that optimiser step."""


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """Averages over the optimiser steps of one update."""

    gap: float = 0.0
    """Mean absolute difference between the trainer's and the rollout's log-probabilities, before the
    first step: how exact the tokens are."""
    loss: float = 0.0
    grad_norm: float = 0.0
    """Before clipping."""
    clipped: float = 0.0
    """Share of tokens where a bound was active: the clip, or the cap of a weight."""
    kl: float = 0.0
    tokens: int = 0
    """Tokens trained on, epochs counted."""
    optimizer_steps: int = 0


class StepStats(NamedTuple):
    """Of one optimiser step."""

    loss: float
    grad_norm: float
    clipped: float
    kl: float
    gap: float


class Size(NamedTuple):
    """Of one optimiser step."""

    tokens: int
    actions: int
    """What the loss is divided by: tokens, or turns where these are regressed on."""


class Learner:
    """A model and its optimiser."""

    def __init__(self, model: PreTrainedModel, settings: Optimizer, loss: LossSection) -> None:
        self.model = model
        self.settings = settings
        self.loss = loss
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            foreach=True,
        )

    def update(
        self,
        table: TurnTable,
        *,
        temperature: float,
        seed: tuple[int, ...],
        max_gap: float,
        max_norm: float = math.inf,
    ) -> UpdateStats:
        """Train on every sequence that the loss has a gradient for. ``temperature`` is what the tokens were
        sampled at.

        Raises :class:`DivergedError` before a step that is not finite, or whose gradient norm is above
        ``max_norm``, would be taken, and before the first where log-probabilities differ from the rollout's
        by more than ``max_gap`` on average.
        """
        data = TrainingData.of(table, zeros=not isinstance(self.loss, ClipLoss))
        by_turn = isinstance(self.loss, RegressionLoss) and self.loss.ratio == "turn"
        rng = np.random.default_rng(seed)
        rows: list[StepStats] = []
        tokens = 0
        for _ in range(self.settings.epochs):
            for minibatch in data.minibatches(self.settings.minibatch, rng):
                count = data.trainable_tokens(minibatch)
                batches = data.batches(minibatch, self.settings.max_tokens, self.model.device)
                size = Size(count, data.trainable_turns(minibatch) if by_turn else count)
                gap = max_gap if not rows else math.inf
                rows.append(self._step(batches, size, temperature, gap, max_norm))
                tokens += count
        if not rows:
            return UpdateStats()
        loss, norm, clipped, kl, _ = np.mean(rows, axis=0).tolist()
        return UpdateStats(rows[0].gap, loss, norm, clipped, kl, tokens, len(rows))

    def _step(
        self, batches: Iterable[TokenBatch], size: Size, temperature: float, max_gap: float, max_norm: float
    ) -> StepStats:
        self.optimizer.zero_grad(set_to_none=True)
        total = clipped = kl = gap = 0.0
        for batch in batches:
            logprobs = sequence_logprobs(self.model, batch.ids, temperature=temperature)
            taken = logprobs.flatten()[batch.places]
            result = self._loss(taken, batch, size.actions)
            torch.autograd.backward(result.loss)
            share = len(batch) / size.tokens
            total += result.loss.item()
            clipped += share * result.clipped.item()
            kl += share * result.kl.item()
            gap += share * (taken.detach() - batch.old_logprobs).abs().mean().item()
        if gap > max_gap:
            raise DivergedError(
                f"log-probabilities differ from the rollout's by {gap:.3g} on average (guards.logprob_gap "
                f"is {max_gap}): rollout and trainer do not hold the same weights or tokens"
            )
        norm = take_step(self.optimizer, total, self.settings.grad_clip, LOWER_RATE, max_norm)
        return StepStats(total, norm, clipped, kl, gap)

    def _loss(self, taken: Tensor, batch: TokenBatch, count: int) -> PolicyLoss:
        """Of the log-probabilities of a batch's trainable tokens; ``count`` is what the sum is divided by."""
        old, advantages, turns = batch.old_logprobs, batch.advantages, batch.turns
        match self.loss:
            case ClipLoss(ratio=ratio, low=low, high=high):
                return clipped_policy_loss(
                    taken, old, advantages, turns, ratio=ratio, low=low, high=high, count=count
                )
            case RegressionLoss(ratio=ratio, beta=beta):
                return regression_loss(taken, old, advantages, turns, ratio=ratio, beta=beta, count=count)
            case WeightedLoss(beta=beta, cap=cap):
                return weighted_loss(taken, old, advantages, beta=beta, cap=cap, count=count)


def take_step(
    optimizer: torch.optim.Optimizer, loss: float, grad_clip: float, remedy: str, max_norm: float = math.inf
) -> float:
    """Clip the gradient, check it and take the step; its norm before clipping.

    Raises :class:`DivergedError`, with the remedy, instead of taking a step that is not finite or whose
    norm is above ``max_norm``.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, grad_clip))
    if not (math.isfinite(norm) and math.isfinite(loss)):
        raise DivergedError(f"loss {loss}, gradient norm {norm}: {remedy}")
    if norm > max_norm:
        raise DivergedError(f"gradient norm {norm:.4g} is above {max_norm:g} (guards.grad_norm): {remedy}")
    optimizer.step()
    return norm
