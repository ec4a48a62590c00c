"""Entries sorted into groups, and what is said of a group as a whole.

Turns belong to episodes, episodes to groups of one task, steps to states seen before: every credit
method compares within such sets. One class does all of it on integer codes, in numpy, in any order of
the entries; nothing loops over entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Grouping:
    """Entry ``i`` is in group ``codes[i]``, one of ``range(count)``; a group may be empty."""

    codes: Array
    count: int

    @classmethod
    def of(cls, *keys: Array) -> Grouping:
        """Entries alike in every key are one group: ``Grouping.of(t.group_id, t.index)``."""
        codes = np.zeros(len(keys[0]), dtype=np.int64)
        for key in keys:
            values, place = np.unique(key, return_inverse=True)
            distinct, codes = np.unique(codes * len(values) + place, return_inverse=True)
        return cls(codes, len(distinct))

    @cached_property
    def size(self) -> Array:
        """Entries per group [groups]."""
        return np.bincount(self.codes, minlength=self.count)

    def spread(self, values: Array) -> Array:
        """A group's value at each of its entries: [groups] -> [entries]."""
        return np.asarray(values)[self.codes]

    def sum(self, values: Array) -> Array:
        """[entries] -> [groups]; 0 for an empty group."""
        return np.bincount(self.codes, weights=values, minlength=self.count)

    def mean(self, values: Array) -> Array:
        """[entries] -> [groups]; NaN for an empty group, which has no mean."""
        with np.errstate(invalid="ignore"):
            return self.sum(values) / self.size

    def std(self, values: Array, ddof: int = 0) -> Array:
        """[entries] -> [groups]; 0 for a group of ``ddof`` entries or fewer."""
        squares = self.sum(self.centre(values) ** 2)
        deviation: Array = np.sqrt(squares / np.maximum(self.size - ddof, 1))
        return deviation

    def max(self, values: Array) -> Array:
        """[entries] -> [groups]; -inf for an empty group, NaN for one with a NaN in it."""
        result = np.full(self.count, -np.inf)
        with np.errstate(invalid="ignore"):
            np.maximum.at(result, self.codes, values)
        return result

    def min(self, values: Array) -> Array:
        """[entries] -> [groups]; +inf for an empty group."""
        return -self.max(-np.asarray(values, dtype=float))

    def alike(self, values: Array) -> Array:
        """Whether a group's entries are all equal, bit for bit: [entries] -> bool [groups]."""
        values = np.asarray(values)
        any_of_them = np.empty(self.count, dtype=values.dtype)
        any_of_them[self.codes] = values
        differing = self.codes[values != any_of_them[self.codes]]
        return np.equal(np.bincount(differing, minlength=self.count), 0)

    def centre(self, values: Array) -> Array:
        """Values minus their group's mean; exactly 0 in a group all alike, whatever the rounding."""
        centred = values - self.spread(self.mean(values))
        return np.where(self.spread(self.alike(values)), 0.0, centred)
