"""The persistent key-value cache: one slot per episode, kept from turn to turn.

Each layer holds ``[slots, kv_heads, length, head_dim]`` for keys and for values. Slots and length grow
geometrically on demand; positions already written never change, so a prefix may be copied to another
slot at any time. Grouped queries attend as further query rows of their key head (Ainslie et al. 2023,
"GQA"), so keys are never repeated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from turnwise.agents.torch.batch import Batch, Bucket


class KVCache:
    """Keys and values of every layer, by slot and position.

    A layer's tensors are made at its first use, because only the model knows their shape.
    """

    def __init__(self, *, max_slots: int, max_length: int) -> None:
        self._max_slots, self._max_length = max_slots, max_length
        self.slots = min(16, max_slots)
        self.length = min(128, max_length)
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def reserve(self, slots: int, length: int) -> None:
        """Make room for slots ``0 .. slots-1`` with ``length`` tokens each."""
        if slots <= self.slots and length <= self.length:
            return
        slots = _grown(self.slots, slots, self._max_slots)
        length = _grown(self.length, length, self._max_length)
        for layer, (keys, values) in self._layers.items():
            self._layers[layer] = _enlarged(keys, slots, length), _enlarged(values, slots, length)
        self.slots, self.length = slots, length

    def copy(self, source: int, targets: list[int], length: int) -> None:
        """Give ``targets`` the first ``length`` tokens of ``source``."""
        for pair in self._layers.values():
            for tensor in pair:
                tensor[targets, :, :length] = tensor[source, :, :length]

    def clear(self, slot: int) -> None:
        """Zero a slot: a NaN left behind would reach its next owner through masked positions (0 * NaN)."""
        for pair in self._layers.values():
            for tensor in pair:
                tensor[slot].zero_()

    def attend(
        self,
        layer: int,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        batch: Batch,
        *,
        scale: float,
        window: int | None = None,
    ) -> Tensor:
        """Store the batch's keys and values, then attend causally over each sequence's whole history.

        ``queries`` ``[N, heads, d]``, ``keys`` ``[N, kv_heads, d]``, ``values`` ``[N, kv_heads, dv]``;
        ``window`` limits the view to the last so many tokens. Returns ``[N, heads * dv]``.
        """
        if layer not in self._layers:
            self._layers[layer] = self._fresh(keys), self._fresh(values)
        key_cache, value_cache = self._layers[layer]
        key_cache[batch.slots, :, batch.positions] = keys
        value_cache[batch.slots, :, batch.positions] = values
        parts = [
            _attend_bucket(queries[b.first : b.last], key_cache, value_cache, b, scale, window)
            for b in batch.buckets
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _fresh(self, like: Tensor) -> Tensor:
        _, heads, dim = like.shape
        return like.new_zeros(self.slots, heads, self.length, dim)


def _attend_bucket(
    queries: Tensor, key_cache: Tensor, value_cache: Tensor, bucket: Bucket, scale: float, window: int | None
) -> Tensor:
    _, heads, dim = queries.shape
    rows, width, kv_heads = bucket.rows, bucket.width, key_cache.shape[1]
    groups = heads // kv_heads
    if bucket.place is not None:
        queries = queries.new_zeros(rows * width, heads, dim).index_copy_(0, bucket.place, queries)
    grid = queries.reshape(rows, width, kv_heads, groups, dim).transpose(1, 2).flatten(2, 3)
    keys = _rows(key_cache, bucket)
    values = _rows(value_cache, bucket)
    bias = bucket.bias(groups, window, queries.dtype)
    out = F.scaled_dot_product_attention(grid, keys, values, attn_mask=bias, scale=scale)
    out = out.view(rows, kv_heads, width, groups, -1).transpose(1, 2).reshape(rows * width, -1)
    return out if bucket.place is None else out[bucket.place]


def _rows(cache: Tensor, bucket: Bucket) -> Tensor:
    view = cache[:, :, : bucket.extent]
    # index_select copies whole rows: four times as fast here as indexing with a tensor
    return view[bucket.slots] if isinstance(bucket.slots, slice) else view.index_select(0, bucket.slots)


def _enlarged(old: Tensor, slots: int, length: int) -> Tensor:
    new = old.new_zeros(slots, old.shape[1], length, old.shape[3])
    new[: old.shape[0], :, : old.shape[2]] = old
    return new


def _grown(size: int, needed: int, limit: int) -> int:
    while size < needed:
        size *= 2
    return min(size, limit)
