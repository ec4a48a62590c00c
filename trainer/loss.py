"""The losses of the policy: clipped, regression and weighted. Pure functions of tensors.

All inputs are flat over the trainable tokens of a minibatch. The sum is divided by a count given from
outside (the trainable tokens of the whole optimiser step, or its turns), so that splitting a batch into
minibatches of unequal length does not change what a token weighs.

On the policy that sampled, and to first order in the advantage, all three go the way of the policy
gradient; they differ in what holds the policy near it afterwards: a bound on the ratio, a target for the
log-ratio, or nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Ratio = Literal["token", "turn"]
"""What a probability ratio is taken of: each token, or the whole turn as one action."""


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The loss and what to watch beside it."""

    loss: Tensor
    """Scalar, differentiable."""
    clipped: Tensor
    """Scalar: share of tokens where a bound was active: the clip, or the cap of a weight."""
    kl: Tensor
    """Scalar: the k3 estimate of KL(old || new) per token (Schulman, 2020)."""


def importance_ratio(log_ratio: Tensor, turns: Tensor, kind: Ratio) -> Tensor:
    """Ratios ``[N]`` from per-token log-ratios ``[N]``.

    ``token``: each token's own (PPO, arXiv 1707.06347). ``turn``: the product over the turn's tokens,
    given to each of them: the turn is the action (turn-level PPO, arXiv 2512.17008). ``turns`` ``[N]``
    numbers each token's turn from 0.
    """
    if kind == "token":
        return log_ratio.exp()
    return _turn_sums(log_ratio, turns).exp()[turns]


def _turn_sums(values: Tensor, turns: Tensor) -> Tensor:
    """``[N]`` to ``[turns]``."""
    return values.new_zeros(int(turns.max()) + 1).index_add(0, turns, values)


def _kl(log_ratio: Tensor) -> Tensor:
    """The mean k3 estimate of log-ratios ``[N]``."""
    return (log_ratio.exp() - 1.0 - log_ratio).mean()


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    turns: Tensor,
    *,
    ratio: Ratio,
    low: float,
    high: float,
    count: float,
) -> PolicyLoss:
    """``-sum(min(r A, clip(r, 1 - low, 1 + high) A)) / count`` (PPO, equation 7; the asymmetric bounds
    are DAPO's, arXiv 2503.14476). All of ``logprobs``, ``old_logprobs``, ``advantages`` and ``turns``
    are ``[N]``."""
    log_ratio = logprobs - old_logprobs
    ratios = importance_ratio(log_ratio, turns, ratio)
    bounded = ratios.clamp(1.0 - low, 1.0 + high)
    gain = torch.minimum(ratios * advantages, bounded * advantages)
    with torch.no_grad():
        clipped = (ratios * advantages > bounded * advantages).float().mean()
        kl = _kl(log_ratio)
    return PolicyLoss(-gain.sum() / count, clipped, kl)


def regression_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    turns: Tensor,
    *,
    ratio: Ratio,
    beta: float,
    count: float,
) -> PolicyLoss:
    """``sum over actions of (beta log(pi / pi_ref) - A)^2 / count``: the solution of reinforcement
    regularised by KL, ``log(pi / pi_ref) = A / beta`` up to a constant, as a target.

    The action is a turn (its log-ratio the sum over its tokens, its advantage their mean) or a token;
    ``count`` counts actions. ``pi_ref`` is the policy that sampled. All of ``logprobs``,
    ``old_logprobs``, ``advantages`` and ``turns`` are ``[N]``. The form is that of the KL-regularised
    family that MiRA (arXiv 2603.19685) belongs to, not read in the paper.
    """
    log_ratio = logprobs - old_logprobs
    taken, target = log_ratio, advantages
    if ratio == "turn":
        taken = _turn_sums(log_ratio, turns)
        target = _turn_sums(advantages, turns) / _turn_sums(torch.ones_like(advantages), turns)
    with torch.no_grad():
        kl = _kl(log_ratio)
    return PolicyLoss((beta * taken - target).square().sum() / count, torch.zeros_like(kl), kl)


def weighted_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    beta: float,
    cap: float,
    count: float,
) -> PolicyLoss:
    """``-sum(min(exp(A / beta), cap) log pi) / count``: imitation of what was done, the better the more.

    It minimises the KL divergence from the same solution that :func:`regression_loss` regresses on
    (advantage-weighted regression, arXiv 1910.00177); no weight is negative, so what was bad is only
    imitated less. All of ``logprobs``, ``old_logprobs`` and ``advantages`` are ``[N]``.
    """
    log_weights = advantages / beta
    weights = log_weights.exp().clamp(max=cap)
    with torch.no_grad():
        clipped = (log_weights > math.log(cap)).float().mean()
        kl = _kl(logprobs - old_logprobs)
    return PolicyLoss(-(weights * logprobs).sum() / count, clipped, kl)
