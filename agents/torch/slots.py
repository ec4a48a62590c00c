"""What the engine knows about each cache slot, as columns, so that one step is a few array operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from turnwise.agents.trajectory import Sampling

NO_TOKEN = -1


class SlotTable:
    """One row per cache slot."""

    def __init__(self, slots: int) -> None:
        self.decoding = np.zeros(slots, dtype=bool)
        """Whether the next step feeds this slot its last sampled token."""
        self.fed = np.zeros(slots, dtype=np.int64)
        """Tokens in the cache."""
        self.seed = np.zeros(slots, dtype=np.uint64)
        self.temperature = np.ones(slots)
        self.top_k = np.zeros(slots, dtype=np.int64)
        self.top_p = np.ones(slots)
        self.limit = np.zeros(slots, dtype=np.int64)
        """How many tokens the current completion may have."""
        self.produced = np.zeros(slots, dtype=np.int64)
        """How many it has."""
        self.stops = np.full((slots, 1), NO_TOKEN, dtype=np.int64)
        """Ids that end it, padded."""
        self.tokens = np.zeros((slots, 16), dtype=np.int64)
        self.logprobs = np.zeros((slots, 16), dtype=np.float32)
        self.versions = np.zeros((slots, 16), dtype=np.int64)

    def begin(self, slot: int, seed: int, sampling: Sampling, stops: frozenset[int], limit: int) -> None:
        """Set the slot up for a completion of at most ``limit`` tokens."""
        self.seed[slot] = seed & 0xFFFFFFFFFFFFFFFF
        self.temperature[slot] = sampling.temperature
        self.top_k[slot] = sampling.top_k
        self.top_p[slot] = sampling.top_p
        self.limit[slot] = limit
        self.produced[slot] = 0
        if len(stops) > self.stops.shape[1]:
            self.stops = _widened(self.stops, len(stops), NO_TOKEN)
        self.stops[slot] = NO_TOKEN
        self.stops[slot, : len(stops)] = sorted(stops)

    def record(
        self,
        slots: npt.NDArray[np.int64],
        tokens: npt.NDArray[np.int64],
        logprobs: npt.NDArray[np.float32],
        version: int,
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Append one token to each slot; which of them hit a stop id, and which their limit."""
        at = self.produced[slots]
        if len(at) and at.max() >= self.tokens.shape[1]:
            width = 2 * self.tokens.shape[1]
            self.tokens = _widened(self.tokens, width, 0)
            self.logprobs = _widened(self.logprobs, width, 0)
            self.versions = _widened(self.versions, width, 0)
        self.tokens[slots, at] = tokens
        self.logprobs[slots, at] = logprobs
        self.versions[slots, at] = version
        self.produced[slots] = at + 1
        stopped = (self.stops[slots] == tokens[:, None]).any(1)
        return stopped, at + 1 >= self.limit[slots]

    def last(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The token each slot sampled last."""
        return self.tokens[slots, self.produced[slots] - 1]

    def completion(self, slot: int) -> tuple[tuple[int, ...], tuple[float, ...], tuple[int, ...]]:
        """Ids, log-probabilities and weight versions the slot has sampled since ``begin``."""
        count = self.produced[slot]
        columns = (self.tokens, self.logprobs, self.versions)
        ids, logprobs, versions = (tuple(column[slot, :count].tolist()) for column in columns)
        return ids, logprobs, versions


def _widened(columns: npt.NDArray[Any], width: int, fill: int) -> npt.NDArray[Any]:
    wide = np.full((columns.shape[0], width), fill, dtype=columns.dtype)
    wide[:, : columns.shape[1]] = columns
    return wide
