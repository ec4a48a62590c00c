"""The clipped policy loss, with one importance ratio per token or per turn. Pure functions of tensors.

All inputs are flat over the trainable tokens of a minibatch. The sum is divided by a count given from
outside (the trainable tokens of the whole optimiser step), so that splitting a batch into minibatches
of unequal length does not change what a token weighs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Ratio = Literal["token", "turn"]


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The loss and what to watch beside it."""

    loss: Tensor
    """Scalar, differentiable."""
    clipped: Tensor
    """Scalar: share of tokens where the clip was active."""
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
    sums = log_ratio.new_zeros(int(turns.max()) + 1).index_add(0, turns, log_ratio)
    return sums.exp()[turns]


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
        kl = (log_ratio.exp() - 1.0 - log_ratio).mean()
    return PolicyLoss(-gain.sum() / count, clipped, kl)
