"""Critics of success and of progress: a copy of the policy with two outputs, read before every turn.

MiRA (arXiv 2603.19685) has two. The *success critic* gives the probability that the episode will succeed,
and learns it from how episodes ended (cross-entropy; one that was cut off did not succeed). The *potential
critic* gives the progress made, a number between 0 and 1, and learns it from milestones, interpolated
between the turns that reached them (squared error). They share one network here, and so the cost.

Episodes are scored as they are learned from, minibatch by minibatch, each before the step that it teaches:
one pass forward and back over a step's episodes does both, and no episode is judged by critics that have
seen how it ended. What they are worth is in the figures, which are of those predictions: ``auc``, how well
states of successes are told from others (0.5 is guessing), and ``potential_r2``, the share of the variance of
progress that is explained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from turnwise.trainer.grouping import Array
from turnwise.trainer.learner import DivergedError, take_step
from turnwise.trainer.scorers.scorer import Scored
from turnwise.trainer.scorers.sections import PREDICTED, SUCCESS, Critics
from turnwise.trainer.scorers.states import States, before_and_after, interpolated_progress, states_of
from turnwise.trainer.scorers.trajectories import packed
from turnwise.trainer.table import TurnTable

REMEDY = "lower the lr of the scorer critics"
NOWHERE = np.zeros(0, dtype=np.int64)


class Lesson(NamedTuple):
    """Figures of one optimiser step."""

    success_loss: float
    potential_loss: float
    grad_norm: float


class CriticsScorer:
    """The network, its two outputs, its optimiser and its memory."""

    def __init__(self, settings: Critics, model: PreTrainedModel, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.backbone: torch.nn.Module = model.base_model
        size = model.config.get_text_config().hidden_size
        self.device = model.device
        self.head = torch.nn.Linear(size, 2, device="meta").to_empty(device=self.device)
        """To the log-odds of success and to progress; 0 at first, so that every state looks alike."""
        for parameter in self.head.parameters():
            torch.nn.init.zeros_(parameter)
        self.memory: list[States] = []
        parameters = [*self.backbone.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=0.0, foreach=True)

    def step(self, table: TurnTable, number: int) -> Scored:
        """Score a step's turns and learn from them, minibatch by minibatch."""
        progress = interpolated_progress(table) if self.settings.potential else None
        fresh = states_of(table, self.settings.success, progress)
        said, stats = self._study(fresh, number)
        rows = np.concatenate([states.rows for states in fresh]) if fresh else NOWHERE
        columns = dict(zip(SUCCESS, before_and_after(table, rows, said[:, 0]), strict=True))
        stats["auc"] = auc(said[:, 0], table.outcome[rows] >= self.settings.success)
        if progress is not None:
            columns |= zip(PREDICTED, before_and_after(table, rows, said[:, 1]), strict=True)
            stats["potential_r2"] = explained(said[:, 1], progress[rows])
        self._remember(fresh)
        return Scored(columns, stats | {"states": float(len(rows)), "memory": float(len(self.memory))})

    def state(self) -> dict[str, Any]:
        """Weights, optimiser and memory."""
        return {
            "backbone": self.backbone.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "memory": [
                tuple(torch.from_numpy(a) for a in (s.ids, s.places, s.success, s.progress))
                for s in self.memory
            ],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.backbone.load_state_dict(state["backbone"])
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.memory = [
            States(ids.numpy(), places.numpy(), NOWHERE, success.numpy(), progress.numpy())
            for ids, places, success, progress in state["memory"]
        ]

    def _study(self, fresh: Sequence[States], number: int) -> tuple[Array, dict[str, float]]:
        """Learn from these and from what is remembered: what was said of each of these states before it was
        learned from, ``[states, 2]``, and figures."""
        rng = np.random.default_rng((self.seed, number))
        lessons = [fresh[i] for i in rng.permutation(len(fresh))]
        lessons += [self.memory[i] for i in rng.permutation(len(self.memory))]
        size = self.settings.minibatch or max(len(lessons), 1)
        said: dict[int, Array] = {}
        taken = [self._learn(lessons[i : i + size], said, number) for i in range(0, len(lessons), size)]
        if not taken:
            return np.zeros((0, 2)), {}
        figures = dict(zip(Lesson._fields, np.mean(taken, axis=0).tolist(), strict=True))
        if not self.settings.potential:
            del figures["potential_loss"]
        return np.concatenate([said[id(states)] for states in fresh]), figures

    def _learn(self, lessons: Sequence[States], said: dict[int, Array], number: int) -> Lesson:
        """One optimiser step. What is said of the lessons before it goes into ``said``, by identity."""
        count = sum(len(states.places) for states in lessons)
        self.optimizer.zero_grad(set_to_none=True)
        success_loss = potential_loss = 0.0
        for batch in packed(lessons):
            outputs = self.outputs(batch)
            if not bool(outputs.isfinite().all()):
                raise DivergedError(f"what the critics say is not finite at step {number}: {REMEDY}")
            success, potential = critics_loss(outputs, batch)
            torch.autograd.backward((success + potential) / count)
            success_loss += success.item() / count
            potential_loss += potential.item() / count
            sizes = np.cumsum([len(states.places) for states in batch])[:-1]
            said |= zip(map(id, batch), np.split(predictions(outputs), sizes), strict=True)
        norm = take_step(self.optimizer, success_loss + potential_loss, self.settings.grad_clip, REMEDY)
        return Lesson(success_loss, potential_loss, norm)

    def outputs(self, batch: Sequence[States]) -> Tensor:
        """Of the states of some contexts, one after the other, in one forward pass: ``[states, 2]``, float32,
        differentiable; the log-odds of success and progress."""
        width = max(len(states.ids) for states in batch)
        ids = np.zeros((len(batch), width), dtype=np.int64)
        for row, states in enumerate(batch):
            ids[row, : len(states.ids)] = states.ids
        places = np.concatenate([row * width + states.places for row, states in enumerate(batch)])
        tokens, read = (torch.from_numpy(array).to(self.device) for array in (ids, places))
        hidden = self.backbone(input_ids=tokens, use_cache=False).last_hidden_state
        outputs: Tensor = self.head(hidden.flatten(0, 1)[read].float())
        return outputs

    def _remember(self, fresh: Sequence[States]) -> None:
        kept = [*self.memory, *(States(s.ids, s.places, NOWHERE, s.success, s.progress) for s in fresh)]
        self.memory = kept[max(0, len(kept) - self.settings.replay) :]


def critics_loss(outputs: Tensor, batch: Sequence[States]) -> tuple[Tensor, Tensor]:
    """Over states ``[states, 2]``: the sum of the cross-entropy of success, and the sum of the squared error
    of progress, 0 where that is not taught."""
    success = torch.from_numpy(np.concatenate([states.success for states in batch])).to(outputs)
    progress = torch.from_numpy(np.concatenate([states.progress for states in batch])).to(outputs)
    cross_entropy = F.binary_cross_entropy_with_logits(outputs[:, 0], success, reduction="sum")
    if not len(progress):
        return cross_entropy, outputs.new_zeros(())
    return cross_entropy, F.mse_loss(outputs[:, 1], progress, reduction="sum")


def predictions(outputs: Tensor) -> Array:
    """The probability of success and the progress, both in [0, 1]: ``[states, 2]``, float64."""
    said = outputs.detach().double()
    both: Array = torch.stack([said[:, 0].sigmoid(), said[:, 1].clamp(0.0, 1.0)], dim=1).cpu().numpy()
    return both


def auc(scores: Array, positive: Array) -> float:
    """The share of pairs of a positive and another whose scores are in that order, a draw being half; NaN
    without any pair."""
    pairs = int(positive.sum()) * int((~positive).sum())
    if not pairs:
        return math.nan
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    wins = rank[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
    return float(wins / pairs)


def explained(predicted: Array, true: Array) -> float:
    """The share of the variance that is explained (R squared), negative where the mean would be better; NaN
    where nothing varies."""
    spread = float(np.sum((true - true.mean()) ** 2)) if len(true) else 0.0
    return 1.0 - float(np.sum((predicted - true) ** 2)) / spread if spread else math.nan
