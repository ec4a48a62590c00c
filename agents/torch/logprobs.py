"""The training forward: log-probabilities of given tokens, with gradients."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel


def sequence_logprobs(model: PreTrainedModel, ids: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-probability of each token given those before it, ``[B, T]`` ids to ``[B, T - 1]``, float32.

    Entry ``[b, t]`` is ``log p(ids[b, t + 1] | ids[b, :t + 1])`` at ``temperature``. Pad on the right:
    attention is causal, so padding never reaches a real token and needs no mask; the entries at padding
    mean nothing. Differentiable with respect to the model's parameters.
    """
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    return -F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view_as(ids[:, 1:])
