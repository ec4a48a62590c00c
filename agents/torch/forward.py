"""Which forward a model gets, and the proof that it computes what the model computes."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from turnwise.agents.torch import fused
from turnwise.agents.torch.batch import Batch, layout
from turnwise.agents.torch.cache import KVCache
from turnwise.agents.torch.hf_forward import ModuleForward
from turnwise.envs.errors import UsageError

LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})


class Forward(Protocol):
    """One forward over a ragged batch and the cache."""

    def __call__(self, batch: Batch, cache: KVCache) -> Tensor:
        """Logits ``[wanted, vocabulary]``."""
        ...

    def refresh(self) -> None:
        """Read the model's weights again."""
        ...


class UnsupportedModelError(UsageError):
    """The engine cannot run this architecture."""


def build_forward(model: PreTrainedModel) -> Forward:
    """The fused forward for the Llama family, else the model's modules over our cache.

    Raises :class:`UnsupportedModelError` when the result does not reproduce the model's own logits on
    random tokens fed in ragged chunks (a recurrent state, positions the cache does not know, ...).
    """
    strange = set(getattr(model.config, "layer_types", None) or ()) - LAYER_TYPES
    if strange:
        raise _unsupported(model, f"it has layers of type {', '.join(sorted(strange))}")
    try:
        forward = fused.FusedForward(model) if fused.fits(model) else ModuleForward(model)
        error = _self_check(model, forward)
    except (TypeError, ValueError, AttributeError, KeyError, RuntimeError, IndexError) as failure:
        raise _unsupported(model, f"its forward failed over the cache: {failure}") from failure
    if not error <= tolerance(model.dtype):
        raise _unsupported(model, f"its logits differ from the model's own by {error:.2g} of their spread")
    return forward


def tolerance(dtype: torch.dtype) -> float:
    """Largest accepted root-mean-square error of logits, as a share of their standard deviation."""
    return 1e-3 if dtype == torch.float32 else 0.1


@torch.inference_mode()
def _self_check(model: PreTrainedModel, forward: Forward) -> float:
    """Two sequences fed as chunks of 5 and 3, then 1 and 4 tokens, against the model's own forward."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.get_text_config().vocab_size, (2, 7), generator=generator).numpy()
    cache, slots = KVCache(max_slots=2, max_length=8), np.array([0, 1])
    ours = []
    for starts, counts in (([0, 0], [5, 3]), ([5, 3], [1, 4])):
        chunks = [ids[i, s : s + c] for i, (s, c) in enumerate(zip(starts, counts, strict=True))]
        batch = layout(np.concatenate(chunks), slots, np.array(starts), np.array(counts), slots, model.device)
        ours.append(forward(batch, cache))
    was_training = model.training
    model.train(False)
    try:
        reference = model(input_ids=torch.from_numpy(ids).to(model.device), use_cache=False).logits
    finally:
        model.train(was_training)
    theirs = torch.stack([reference[0, 4], reference[1, 2], reference[0, 5], reference[1, 6]]).float()
    difference = torch.cat(ours).float() - theirs
    return float(difference.square().mean().sqrt() / theirs.std())


def _unsupported(model: PreTrainedModel, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the torch engine cannot run model_type {model.config.model_type!r}: {reason}; "
        "use a decoder-only transformer with standard attention, or serve the model with vLLM"
    )
