"""Supervised training on demonstrations: what a warm start and ``sft`` are made of.

Cross-entropy on the demonstrator's tokens alone; what the environment said is read, not imitated. The
demonstrations are drawn in an order that depends on the seed and the gradient step, so that a resumed
warm start goes on as an unbroken one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from turnwise.agents.torch import sequence_logprobs
from turnwise.trainer.demonstrations import Demonstration
from turnwise.trainer.learner import take_step
from turnwise.trainer.recipe import WarmStart

WARM_UP_STEPS = 30
GRAD_CLIP = 1.0


class Imitator:
    """A model, its optimiser and the demonstrations."""

    def __init__(
        self, model: PreTrainedModel, demonstrations: Sequence[Demonstration], settings: WarmStart, seed: int
    ) -> None:
        self.model = model
        self.settings = settings
        self.seed = seed
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.01, foreach=True
        )
        by_length = sorted(demonstrations, key=lambda d: (len(d.ids), d.ids))
        self._batches = [by_length[i : i + settings.batch] for i in range(0, len(by_length), settings.batch)]

    def step(self, number: int) -> float:
        """Gradient step ``number``, counted from 0; the loss per taught token before it.

        Raises :class:`~turnwise.trainer.learner.DivergedError`.
        """
        batch = random.Random(f"{self.seed}/{number}").choice(self._batches)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * min(1.0, (number + 1) / WARM_UP_STEPS)
        ids, weights = _padded(batch)
        device = self.model.device
        logprobs = sequence_logprobs(self.model, ids.to(device))
        weights = weights.to(device)
        loss = -(logprobs * weights).sum() / weights.sum()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        value = loss.item()
        take_step(self.optimizer, value, GRAD_CLIP, "lower warm_start.lr")
        return value


def _padded(batch: Sequence[Demonstration]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids ``[B, T]`` padded on the right, and ``[B, T - 1]`` with 1 where the next token is taught."""
    width = max(len(d.ids) for d in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    taught = torch.zeros(len(batch), width)
    for row, d in enumerate(batch):
        ids[row, : len(d.ids)] = torch.tensor(d.ids)
        taught[row, : len(d.ids)] = torch.tensor(d.taught, dtype=torch.float)
    return ids, taught[:, 1:]
