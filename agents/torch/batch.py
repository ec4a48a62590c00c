"""The layout of one ragged forward: chunks of different lengths, packed end to end.

Every layer outside attention sees the packed real tokens only, ``[N, ...]``. Attention needs a
rectangle, so the rows are put in buckets of similar chunk length; a bucket pads its queries to its
longest chunk and its keys to its longest history. A bucket whose slots lie close together reads the
cache as one slice of slots, unused ones included, because copying keys costs more than ignoring a few.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints: TypeAlias = npt.NDArray[np.int64]

WIDTHS = np.array([1, 8, 32, 128])
"""Upper bounds of the chunk lengths of the buckets; the last bucket has none."""


def width_class(counts: Ints) -> Ints:
    """Which bucket a chunk of each length belongs to."""
    return np.searchsorted(WIDTHS, counts)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Rows of similar chunk length: one attention call over a ``[rows, width]`` rectangle of queries."""

    first: int
    last: int
    """The packed tokens ``first:last`` belong to this bucket."""
    slots: slice | Tensor
    rows: int
    width: int
    extent: int
    """The longest history after this forward, in tokens."""
    place: Tensor | None
    """Where each packed token goes in the flattened rectangle; None when it is exactly the rectangle."""
    positions: Tensor
    """``[rows, width]`` positions of the queries; padding looks at position 0."""
    _biases: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)

    def bias(self, groups: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """The additive causal mask ``[rows, 1, width * groups, extent]``, queries position-major."""
        key = (groups, window)
        if key not in self._biases:
            column = torch.arange(self.extent, device=self.positions.device)
            position = self.positions[:, :, None]
            hidden = column > position
            if window is not None:
                hidden |= column <= position - window
            bias = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            bias.masked_fill_(hidden, float("-inf"))
            shape = (self.rows, self.width, groups, self.extent)
            self._biases[key] = bias[:, :, None].expand(shape).flatten(1, 2)[:, None]
        return self._biases[key]


@dataclass(frozen=True, slots=True)
class Batch:
    """One ragged forward over ``N`` packed tokens."""

    tokens: Tensor
    """``[N]``"""
    positions: Tensor
    """``[N]``: the index of each token in its sequence."""
    slots: Tensor
    """``[N]``: the cache slot of each token."""
    wanted: Tensor
    """Packed indices of the tokens whose next-token logits are wanted."""
    buckets: tuple[Bucket, ...]


def layout(
    tokens: Ints, slots: Ints, starts: Ints, counts: Ints, wanted: Ints, device: torch.device
) -> Batch:
    """Lay out rows sorted by ``(width_class(counts), slots)``.

    ``tokens`` holds the chunks end to end; row i has ``counts[i]`` of them, follows ``starts[i]`` cached
    tokens and lives in ``slots[i]``. ``wanted`` are the rows whose logits after the last token are needed.
    """
    ends = np.cumsum(counts)
    offsets = np.arange(len(tokens)) - np.repeat(ends - counts, counts)
    positions = np.repeat(starts, counts) + offsets
    classes = width_class(counts)
    edges = [0, *(np.flatnonzero(np.diff(classes)) + 1).tolist(), len(counts)]
    buckets = tuple(
        _bucket(slots[a:b], starts[a:b], counts[a:b], int(ends[a] - counts[a]), offsets, positions, device)
        for a, b in pairwise(edges)
    )
    return Batch(
        tokens=_put(tokens, device),
        positions=_put(positions, device),
        slots=_put(np.repeat(slots, counts), device),
        wanted=_put(ends[wanted] - 1, device),
        buckets=buckets,
    )


def _bucket(
    slots: Ints,
    starts: Ints,
    counts: Ints,
    first: int,
    offsets: Ints,
    positions: Ints,
    device: torch.device,
) -> Bucket:
    last = first + int(counts.sum())
    width, extent = int(counts.max()), int((starts + counts).max())
    low, span = int(slots[0]), int(slots[-1] - slots[0]) + 1
    dense = 4 * len(slots) >= 3 * span
    rows = span if dense else len(slots)
    if rows * width == last - first:
        place, rectangle = None, positions[first:last]
    else:
        row = slots - low if dense else np.arange(len(slots))
        flat = np.repeat(row, counts) * width + offsets[first:last]
        rectangle = np.zeros(rows * width, dtype=np.int64)
        rectangle[flat] = positions[first:last]
        place = _put(flat, device)
    where = slice(low, low + span) if dense else _put(slots, device)
    return Bucket(first, last, where, rows, width, extent, place, _put(rectangle, device).view(rows, width))


def _put(array: Ints, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
