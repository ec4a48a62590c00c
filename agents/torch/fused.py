"""The Llama family's forward, with fused projections and no module overhead.

Llama, Qwen2, Qwen3 and Mistral are one architecture: pre-norm residual blocks, rotary positions,
grouped-query attention and a SiLU-gated MLP, with or without biases and query/key norms. Here the
query, key and value projections are one matrix, gate and up another. For small models the time goes
into calls, not arithmetic: that is what the fusion saves. The rotary tables come from the model's own
module, so every static rope type agrees with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from turnwise.agents.torch.batch import Batch
from turnwise.agents.torch.cache import KVCache

FAMILY = frozenset({"llama", "mistral", "qwen2", "qwen3"})
STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})

Attend: TypeAlias = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""``(layer, queries [N, heads, d], keys [N, kv_heads, d], values)`` to ``[N, heads * d]``."""


def fits(model: PreTrainedModel) -> bool:
    """Whether this forward covers the model; the others take the general path."""
    config = model.config
    if config.model_type not in FAMILY or config.hidden_act != "silu":
        return False
    layer_types = getattr(config, "layer_types", None)
    if layer_types is None:
        full = getattr(config, "sliding_window", None) is None
    else:
        full = set(layer_types) == {"full_attention"}
    rope = config.rope_parameters
    partial = rope.get("partial_rotary_factor", 1.0)
    return full and rope.get("rope_type", "default") in STATIC_ROPE and partial == 1.0


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one block; a bias or query/key norm the model lacks is None."""

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    qk_norm: Tensor | None
    """``[heads + kv_heads, head_dim]``"""
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's weights as this forward wants them."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Tensor
    heads: int
    kv_heads: int
    head_dim: int
    eps: float


def gather(model: PreTrainedModel) -> Weights:
    """Collect and fuse the weights; differentiable, so gradients reach the model's parameters."""
    config = model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    causal: Any = model
    base = causal.model
    layers = []
    for block in base.layers:
        attention, mlp = block.self_attn, block.mlp
        norm = None
        if hasattr(attention, "q_norm"):
            shares = (attention.q_norm.weight.expand(heads, -1), attention.k_norm.weight.expand(kv_heads, -1))
            norm = torch.cat(shares)
        qkv, qkv_bias = _stacked(attention.q_proj, attention.k_proj, attention.v_proj)
        gate_up, gate_up_bias = _stacked(mlp.gate_proj, mlp.up_proj)
        layers.append(
            Layer(
                input_norm=block.input_layernorm.weight,
                qkv=qkv,
                qkv_bias=qkv_bias,
                qk_norm=norm,
                out=attention.o_proj.weight,
                out_bias=attention.o_proj.bias,
                mlp_norm=block.post_attention_layernorm.weight,
                gate_up=gate_up,
                gate_up_bias=gate_up_bias,
                down=mlp.down_proj.weight,
                down_bias=mlp.down_proj.bias,
            )
        )
    return Weights(
        embedding=base.embed_tokens.weight,
        layers=tuple(layers),
        norm=base.norm.weight,
        head=causal.lm_head.weight,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        eps=config.rms_norm_eps,
    )


def hidden_states(weights: Weights, tokens: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
    """The normed last hidden states ``[N, hidden]`` of packed ``tokens`` ``[N]``.

    ``cos`` and ``sin`` are ``[N, 1, head_dim]``, ``sin`` with its first half negated (see :func:`rotary`).
    """
    heads, kv_heads, dim, eps = weights.heads, weights.kv_heads, weights.head_dim, weights.eps
    x = F.embedding(tokens, weights.embedding)
    width = (x.shape[-1],)
    for index, layer in enumerate(weights.layers):
        normed = F.rms_norm(x, width, layer.input_norm, eps)
        qkv = F.linear(normed, layer.qkv, layer.qkv_bias).view(-1, heads + 2 * kv_heads, dim)
        qk, values = qkv[:, : heads + kv_heads], qkv[:, heads + kv_heads :]
        if layer.qk_norm is not None:
            qk = F.rms_norm(qk, (dim,), None, eps) * layer.qk_norm
        qk = torch.addcmul(qk * cos, qk.roll(dim // 2, -1), sin)
        seen = attend(index, qk[:, :heads], qk[:, heads:], values)
        x = x + F.linear(seen, layer.out, layer.out_bias)
        normed = F.rms_norm(x, width, layer.mlp_norm, eps)
        gate, up = F.linear(normed, layer.gate_up, layer.gate_up_bias).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, layer.down, layer.down_bias)
    return F.rms_norm(x, width, weights.norm, eps)


def rotary(model: PreTrainedModel, length: int) -> tuple[Tensor, Tensor]:
    """The model's own rotary tables ``[length, 1, head_dim]``, the sine's first half negated.

    ``rotate_half(x) * sin`` is then ``roll(x, d/2) * sin``: one call instead of three.
    """
    base: Any = model.model
    weight = base.embed_tokens.weight
    positions = torch.arange(length, device=weight.device)[None]
    with torch.no_grad():
        cos, sin = base.rotary_emb(weight[None, :1], positions)
    half = cos.shape[-1] // 2
    sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)
    return cos[0, :, None].clone(), sin[0, :, None].clone()


class FusedForward:
    """The rollout's forward for the Llama family, on its own copy of the weights."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cos, self._sin = rotary(model, 128)
        self.refresh()

    def refresh(self) -> None:
        """Copy the model's weights as they are now."""
        with torch.no_grad():
            self._weights = _owned(gather(self._model))

    def __call__(self, batch: Batch, cache: KVCache) -> Tensor:
        """Logits ``[wanted, vocabulary]`` after the batch's wanted tokens."""
        if cache.length > len(self._cos):
            self._cos, self._sin = rotary(self._model, cache.length)
        weights = self._weights
        scale = weights.head_dim**-0.5

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return cache.attend(layer, queries, keys, values, batch, scale=scale)

        cos, sin = self._cos[batch.positions], self._sin[batch.positions]
        hidden = hidden_states(weights, batch.tokens, cos, sin, attend)
        if len(batch.wanted) < len(batch.tokens):
            hidden = hidden[batch.wanted]
        return F.linear(hidden, weights.head)


def _stacked(*projections: Any) -> tuple[Tensor, Tensor | None]:
    weight = torch.cat([p.weight for p in projections])
    bias = None if projections[0].bias is None else torch.cat([p.bias for p in projections])
    return weight, bias


def _owned(weights: Weights) -> Weights:
    """The same weights, none of them a parameter of the model: fused ones are copies already."""
    copies: dict[int, Tensor] = {}

    def own(value: Any) -> Any:
        if not isinstance(value, torch.nn.Parameter):
            return value
        if id(value) not in copies:
            copies[id(value)] = value.detach().clone()
        return copies[id(value)]

    def fields(record: Layer | Weights) -> dict[str, Any]:
        return {name: own(getattr(record, name)) for name in record.__slots__}

    layers = tuple(Layer(**fields(layer)) for layer in weights.layers)
    return Weights(**{**fields(weights), "layers": layers})
