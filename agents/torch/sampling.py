"""Drawing tokens: one uniform per token from a counter, then the inverse of the distribution function.

The uniform of a token depends on the episode's seed and the token's position alone (splitmix64, Steele,
Lea and Flood 2014, as a counter-based generator), so a token does not depend on what its episode was
batched with, and a resumed episode draws what an unbroken one would have drawn.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats: TypeAlias = npt.NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniforms(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.int64]) -> Floats:
    """One number in the open interval (0, 1) per (seed, position)."""
    counter = positions.astype(np.uint64) + np.uint64(1)
    bits = _mix(_mix(seeds + _GOLDEN) + counter * _GOLDEN)
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def draw(
    logits: Tensor, uniform: Floats, temperature: Floats, top_k: npt.NDArray[np.int64], top_p: Floats
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """One token per row of ``logits`` ``[n, vocabulary]``, with its natural log-probability.

    Rows are scaled by their temperature, cut to the ``top_k`` likeliest tokens (0: all) and then to the
    smallest set of likeliest tokens whose mass reaches ``top_p``; the log-probability is in float32, of
    the distribution that remains. Temperature 0 takes the likeliest token, with its log-probability at
    temperature 1 without filters. A token of probability zero is never drawn. A row with NaN or infinite
    logits yields a log-probability that is not finite.
    """
    logits = logits.float()
    greedy = temperature == 0.0
    scale = np.where(greedy, 1.0, temperature)
    if (scale != 1.0).any():
        logits = logits / _column(scale, logits)
    filtered = ~greedy & ((top_k > 0) | (top_p < 1.0))
    if filtered.any():
        rows = torch.from_numpy(np.flatnonzero(filtered)).to(logits.device)
        kept = _filter(logits[rows], top_k[filtered], top_p[filtered])
        logits = logits.index_copy(0, rows, kept)
    logprobs = torch.log_softmax(logits, -1)
    tokens = _inverse(logprobs, uniform)
    if greedy.any():
        tokens = torch.where(torch.from_numpy(greedy).to(tokens.device), logits.argmax(-1), tokens)
    chosen = logprobs.gather(1, tokens[:, None])[:, 0]
    return tokens.cpu().numpy(), chosen.cpu().numpy()


def _inverse(logprobs: Tensor, uniform: Floats) -> Tensor:
    mass = logprobs.exp().cumsum(-1, dtype=torch.float64)
    target = torch.from_numpy(uniform).to(mass.device)[:, None] * mass[:, -1:]
    # the first entry to reach a positive target has a probability of its own; past the end only for NaN
    return torch.searchsorted(mass, target)[:, 0].clamp_(max=mass.shape[1] - 1)


def _filter(logits: Tensor, top_k: npt.NDArray[np.int64], top_p: Floats) -> Tensor:
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    limit = np.where(top_k > 0, top_k, logits.shape[1])
    rank = torch.arange(logits.shape[1], device=logits.device)
    ordered = ordered.masked_fill(rank >= _column(limit, rank), float("-inf"))
    share = ordered.softmax(-1, dtype=torch.float64)
    before = share.cumsum(-1) - share
    ordered = ordered.masked_fill(before >= _column(top_p, before), float("-inf"))
    return torch.empty_like(logits).scatter_(1, order, ordered)


def _column(values: npt.NDArray[np.generic], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device, like.dtype)[:, None]


def _mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))
