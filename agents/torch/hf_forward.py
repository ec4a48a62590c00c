"""Any other Hugging Face causal LM, run over our cache through transformers' attention interface.

The model's own modules run on packed tokens ``[1, N]`` with explicit positions; only attention is
ours: it files keys and values under the batch's slots and attends per sequence. Masks are ours too:
transformers makes none for an attention function it has no mask function for.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from turnwise.agents.torch.batch import Batch
from turnwise.agents.torch.cache import KVCache

NAME = "turnwise_slots"
UNSUPPORTED = ("softcap", "s_aux", "position_bias", "head_mask")


def slot_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    turnwise_batch: Batch,
    turnwise_cache: KVCache,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers calls it: ``[1, heads, N, d]`` in, ``[1, N, heads, dv]`` out."""
    refused = [name for name in UNSUPPORTED if options.get(name) is not None]
    if refused:
        raise ValueError(f"attention with {', '.join(refused)} is not supported")
    out = turnwise_cache.attend(
        module.layer_idx,
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        turnwise_batch,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
    )
    return out.view(1, query.shape[2], query.shape[1], -1), None


AttentionInterface.register(NAME, slot_attention)


class ModuleForward:
    """The rollout's forward through the model's own modules, on its own copy of the weights."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._source = model
        self._model: Any = copy.deepcopy(model)
        self._model.train(False)
        self._model.set_attn_implementation(NAME)

    def refresh(self) -> None:
        """Copy the model's weights as they are now."""
        with torch.no_grad():
            for name in ("parameters", "buffers"):
                pairs = zip(getattr(self._model, name)(), getattr(self._source, name)(), strict=True)
                for mine, theirs in pairs:
                    mine.copy_(theirs)

    def __call__(self, batch: Batch, cache: KVCache) -> Tensor:
        """Logits ``[wanted, vocabulary]`` after the batch's wanted tokens."""
        output = self._model(
            input_ids=batch.tokens[None],
            position_ids=batch.positions[None],
            use_cache=False,
            logits_to_keep=batch.wanted,
            turnwise_batch=batch,
            turnwise_cache=cache,
        )
        logits: Tensor = output.logits[0]
        return logits
