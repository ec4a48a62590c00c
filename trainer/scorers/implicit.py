"""The implicit process reward: a language model whose log-ratio against a reference is the reward.

Trained only to tell successes from failures, a model of the form ``beta * log(pi / pi_ref)`` assigns, by
its own factorisation, a part of that judgement to every token it reads (arXiv 2412.01981): the reward of
a turn is the sum over the tokens written in it. Two losses train it. *Preference*: within a group, the
score of every success above that of every failure (iStar, arXiv 2509.19199). *Cross-entropy*: the score
as the log-odds of success (PRIME, arXiv 2502.01456).

On few episodes a step the model is noisy; remembering mixed groups and learning from them again is what
makes it stable. How well it ranks pairs before it has learned from them (``auc``) is the figure to watch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from turnwise.trainer.columns import TOKEN
from turnwise.trainer.grouping import Array
from turnwise.trainer.learner import DivergedError, take_step
from turnwise.trainer.scorers.scorer import Scored
from turnwise.trainer.scorers.sections import ImplicitReward
from turnwise.trainer.scorers.trajectories import (
    Group,
    Trajectory,
    groups_of,
    packed,
    packed_groups,
    written_logprobs,
)
from turnwise.trainer.table import TurnTable

REMEDY = "lower the reward model's lr"


@dataclass(slots=True)
class Ranking:
    """Pairs of a success and a failure as the model put them before it learned from them."""

    pairs: int = 0
    right: float = 0.0
    """Of them, those with the success above; a draw is half."""

    def add_all(self, scores: Sequence[Array], groups: Sequence[Group]) -> None:
        """The pairs of each group, by its episodes' scores."""
        for own, group in zip(scores, groups, strict=True):
            gap = own[group.success][:, None] - own[~group.success][None, :]
            self.pairs += gap.size
            self.right += float(np.sum(gap > 0) + 0.5 * np.sum(gap == 0))

    @property
    def auc(self) -> float:
        """Share of pairs put right; NaN without any."""
        return self.right / self.pairs if self.pairs else math.nan


class ImplicitScorer:
    """The reward model, its optimiser and its memory."""

    def __init__(
        self, settings: ImplicitReward, model: PreTrainedModel, temperature: float, seed: int
    ) -> None:
        self.settings = settings
        self.model = model
        self.temperature = temperature
        self.seed = seed
        self.initial = copy.deepcopy(model) if settings.reference == "initial" else None
        self.memory: list[Group] = []
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.lr, weight_decay=0.0, foreach=True
        )

    def step(self, table: TurnTable, number: int) -> Scored:
        """Score and learn, in the order that the recipe says."""
        used = [
            g for g in groups_of(table, self.settings.success) if self._is_scored(g) or self._is_lesson(g)
        ]
        groups = [self._with_reference(group) for group in used]
        lessons = [group for group in groups if self._is_lesson(group)]
        ranking = Ranking()
        if self.settings.score == "before_update":
            reward = self._score(table, groups, number)
            ranking.add_all([_totals(group, reward) for group in lessons], lessons)
            stats = self._learn(lessons, number, None)
        else:
            stats = self._learn(lessons, number, ranking)
            reward = self._score(table, groups, number)
        if number <= self.settings.warm_up:
            reward[:] = np.nan
        stats |= {"auc": ranking.auc, "pairs": float(ranking.pairs)}
        stats |= {"groups": float(len(lessons)), "memory": float(len(self.memory))}
        return Scored({"implicit": table.gather(reward), f"{TOKEN}implicit": reward}, stats)

    def state(self) -> dict[str, Any]:
        """Weights, optimiser and memory."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "initial": None if self.initial is None else self.initial.state_dict(),
            "memory": [_packed_group(group) for group in self.memory],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.initial is not None:
            self.initial.load_state_dict(state["initial"])
        self.memory = [_unpacked_group(packed) for packed in state["memory"]]

    def _is_lesson(self, group: Group) -> bool:
        """Whether it is learned from: its share of successes is within bounds, and pairs need both."""
        low, high = self.settings.accuracy
        within = low <= float(group.success.mean()) <= high
        return within and (group.mixed or self.settings.loss == "cross_entropy")

    def _is_scored(self, group: Group) -> bool:
        """Whether its turns get a reward."""
        return group.mixed or self.settings.scored == "all"

    # -- scoring

    @torch.no_grad()
    def _score(self, table: TurnTable, groups: Sequence[Group], number: int) -> Array:
        """The reward of every token; NaN where it is not scored."""
        reward = np.full(len(table.tokens.ids), np.nan)
        for batch in packed([t for group in groups if self._is_scored(group) for t in group.trajectories]):
            logprobs = written_logprobs(self.model, batch, self.temperature).cpu().numpy()
            reference = np.concatenate([t.reference for t in batch])
            where = np.concatenate([t.tokens for t in batch])
            reward[where] = self.settings.beta * (logprobs.astype(np.float64) - reference)
            if not np.isfinite(reward[where]).all():
                raise DivergedError(f"the implicit reward is not finite at step {number}: {REMEDY}")
        return reward

    @torch.no_grad()
    def _with_reference(self, group: Group) -> Group:
        """The group with the initial policy's log-probabilities, where those are the reference."""
        if self.initial is None:
            return group
        trajectories = list(group.trajectories)
        logprobs = written_logprobs(self.initial, trajectories, self.temperature).cpu().numpy()
        parts = np.split(logprobs, np.cumsum([len(t.written) for t in trajectories])[:-1])
        anew = tuple(
            Trajectory(t.ids, t.written, part, t.tokens, t.episode)
            for t, part in zip(trajectories, parts, strict=True)
        )
        return Group(anew, group.success, group.turns)

    # -- learning

    def _learn(self, fresh: Sequence[Group], number: int, ranking: Ranking | None) -> dict[str, float]:
        """The optimiser steps of a training step; figures of them. The groups learned from enter a
        ranking, as they are put before that."""
        pool = [*fresh, *self.memory]
        order = np.random.default_rng((self.seed, number)).permutation(len(pool))
        size = self.settings.minibatch or max(len(pool), 1)
        losses, norms = [], []
        for start in range(0, min(len(pool), size * self.settings.optimizer_steps), size):
            loss, norm = self._optimize([pool[i] for i in order[start : start + size]], ranking)
            losses.append(loss)
            norms.append(norm)
        self._remember(fresh)
        return {
            "loss": float(np.mean(losses)) if losses else math.nan,
            "grad_norm": float(np.mean(norms)) if norms else math.nan,
        }

    def _optimize(self, lessons: Sequence[Group], ranking: Ranking | None) -> tuple[float, float]:
        """One optimiser step: its loss and the norm of its gradient."""
        preference = self.settings.loss == "preference"
        count = sum(g.pairs if preference else len(g.success) for g in lessons)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in packed_groups(lessons):
            scores = self.totals(batch)
            loss = (preference_loss if preference else cross_entropy)(scores, batch) / count
            torch.autograd.backward(loss)
            total += loss.item()
            if ranking is not None:
                ends = np.cumsum([len(group.success) for group in batch])
                ranking.add_all(np.split(scores.detach().cpu().numpy(), ends[:-1]), batch)
        return total, take_step(self.optimizer, total, self.settings.grad_clip, REMEDY)

    def totals(self, groups: Sequence[Group]) -> Tensor:
        """The score of every episode, group after group: ``[episodes]``, differentiable."""
        trajectories = [t for group in groups for t in group.trajectories]
        first = np.cumsum([0, *(len(group.success) for group in groups)])
        owner = [first[i] + t.episode for i, group in enumerate(groups) for t in group.trajectories]
        owners = np.repeat(owner, [len(t.written) for t in trajectories])
        logprobs = written_logprobs(self.model, trajectories, self.temperature)
        reference = torch.from_numpy(np.concatenate([t.reference for t in trajectories])).to(logprobs.device)
        index = torch.from_numpy(owners).to(logprobs.device)
        scores = logprobs.new_zeros(int(first[-1])).index_add(0, index, logprobs - reference)
        if self.settings.total == "step_mean":
            turns = np.concatenate([group.turns for group in groups])
            scores = scores / torch.from_numpy(turns).to(scores)
        return self.settings.beta * scores

    def _remember(self, fresh: Sequence[Group]) -> None:
        kept = [*self.memory, *(_without_places(group) for group in fresh)]
        self.memory = kept[len(kept) - self.settings.replay :] if len(kept) > self.settings.replay else kept


def preference_loss(scores: Tensor, groups: Sequence[Group]) -> Tensor:
    """``-sum of log sigmoid(S+ - S-)`` over every pair of a success and a failure of one group (iStar,
    arXiv 2509.19199). ``scores`` is ``[episodes]`` over the groups in order."""
    better, worse, first = [], [], 0
    for group in groups:
        successes, failures = np.flatnonzero(group.success), np.flatnonzero(~group.success)
        better.append(first + np.repeat(successes, len(failures)))
        worse.append(first + np.tile(failures, len(successes)))
        first += len(group.success)
    ahead, behind = (torch.from_numpy(np.concatenate(part)).to(scores.device) for part in (better, worse))
    return -F.logsigmoid(scores[ahead] - scores[behind]).sum()


def cross_entropy(scores: Tensor, groups: Sequence[Group]) -> Tensor:
    """``-sum of o log sigmoid(S) + (1 - o) log(1 - sigmoid(S))`` over the episodes, ``o`` being success
    (PRIME, arXiv 2502.01456; arXiv 2412.01981)."""
    success = torch.from_numpy(np.concatenate([group.success for group in groups])).to(scores)
    return F.binary_cross_entropy_with_logits(scores, success, reduction="sum")


def _totals(group: Group, reward: Array) -> Array:
    """The score of each episode of a group, from the reward of every token; NaN where it is not scored."""
    totals = np.zeros(len(group.success))
    for trajectory in group.trajectories:
        totals[trajectory.episode] += reward[trajectory.tokens].sum()
    return totals


def _without_places(group: Group) -> Group:
    nowhere = np.zeros(0, dtype=np.int64)
    kept = (Trajectory(t.ids, t.written, t.reference, nowhere, t.episode) for t in group.trajectories)
    return Group(tuple(kept), group.success, group.turns)


def _packed_group(group: Group) -> dict[str, Any]:
    """A group as tensors and plain values."""
    return {
        "success": torch.from_numpy(group.success),
        "turns": torch.from_numpy(group.turns),
        "trajectories": [
            (*(torch.from_numpy(a) for a in (t.ids, t.written, t.reference)), t.episode)
            for t in group.trajectories
        ],
    }


def _unpacked_group(packed: Mapping[str, Any]) -> Group:
    nowhere = np.zeros(0, dtype=np.int64)
    return Group(
        tuple(
            Trajectory(ids.numpy(), written.numpy(), reference.numpy(), nowhere, episode)
            for ids, written, reference, episode in packed["trajectories"]
        ),
        packed["success"].numpy(),
        packed["turns"].numpy(),
    )
