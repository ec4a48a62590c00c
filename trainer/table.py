"""The turn table: every turn of a batch of episodes as a row, every quantity as a column.

Credit methods read columns and add columns. Because a row is a turn, the methods are a few lines of
vectorised numpy each; because the tokens lie beside the rows in flat columns with ranges,
:meth:`TurnTable.expand` alone carries a turn's advantage to the tokens that the learner wrote, and to
no others. What is said of every token (an implicit reward, say) is a column too, whose name begins with
``token:``.

Turns form a tree where an environment was forked: several episodes share their first turns. The rows
unfold the tree, one row per turn *of an episode*, so that to a method every episode is a chain. The
tokens of a shared turn are stored once, and its advantage is the mean over its rows, that is over the
episodes below it: it is trained once, with the mean return of its descendant leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np

from turnwise.agents.trajectory import Episode
from turnwise.trainer.columns import (
    ALWAYS,
    KEYS,
    NO_TURNS,
    TOKEN,
    Tokens,
    channel_columns,
    key_columns,
    milestone_columns,
    outcome_columns,
    token_columns,
)
from turnwise.trainer.grouping import Array, Grouping


@dataclass(frozen=True, slots=True)
class ExclusionCount:
    """Episodes kept, and those left out with the reason: an end that is not the agent's doing, or no
    turn at all. Watch that it does not depend on the policy: excluding is a selection."""

    kept: int = 0
    by_reason: Mapping[str, int] = field(default_factory=dict)

    @property
    def excluded(self) -> int:
        """How many episodes were left out."""
        return sum(self.by_reason.values())

    @property
    def share(self) -> float:
        """The part of all episodes that was left out."""
        return self.excluded / max(self.kept + self.excluded, 1)


@dataclass(frozen=True, slots=True)
class Sequences:
    """What a model reads: the tokens of every episode and thread in order, as places in the token
    columns. Sequence ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``."""

    tokens: Array
    offsets: Array
    owned: Array
    """Per entry: False where another, earlier sequence already trains this token of a shared turn."""
    rows: Array
    """Per entry: the row of its turn."""
    episode: Array
    """Episode code of each sequence."""


@dataclass(frozen=True, eq=False)
class TurnTable:
    """Columns by name, as attributes (``t.reward``) or items (``t["milestone:checked"]``), read-only.

    Rows of an episode are adjacent and in order. The key columns are integer codes; ``names`` holds
    what they stand for. Raises ``ValueError`` for columns that do not fit together.
    """

    columns: Mapping[str, Array]
    episode_group: Array
    """Group code of each episode."""
    names: Mapping[str, Array]
    tokens: Tokens
    milestones: tuple[str, ...] = ()
    channels: Mapping[str, int] = field(default_factory=dict)
    """Level of each reward channel; 0 is the outcome, higher numbers rank lower."""
    excluded: ExclusionCount = ExclusionCount()

    def __post_init__(self) -> None:
        sealed: dict[str, Array] = {}
        for name, column in self.columns.items():
            sealed[name] = np.asarray(column).view()
            sealed[name].flags.writeable = False
        object.__setattr__(self, "columns", sealed)
        wrong = [name for name, column in sealed.items() if column.shape != (self.length_of(name),)]
        if wrong:
            raise ValueError(f"columns of another length than the table's {len(self)} rows: {wrong}")
        step = np.diff(self.episode_id, prepend=-1, append=self.episodes)
        if np.any((step != 0) & (step != 1)) or step[0] != 1 or step[-1] != 1:
            raise ValueError("the rows of an episode must be adjacent, and the episodes in order")

    @classmethod
    def from_episodes(
        cls,
        episodes: Sequence[Episode],
        milestones: Sequence[str] = (),
        channels: Mapping[str, int] | None = None,
        *,
        learner: str = "learner",
        shared_weight: Literal["one", "leaves"] = "one",
    ) -> TurnTable:
        """The table of finished episodes.

        ``milestones`` and ``channels`` are what the environment declares; the columns they give are
        listed by :func:`~turnwise.trainer.columns.base_columns`. Trainable tokens are those sampled
        with ``learner`` as their author. ``shared_weight`` says what a turn shared by several episodes
        weighs in the loss: as one turn, or as many as there are episodes below it. Episodes that
        failed through no fault of the agent, and those without a turn, do not enter and are counted.

        Raises ``UsageError`` for a milestone or channel that was not declared, an id used twice, and
        sampled tokens of which none are the learner's.
        """
        reasons = [_why_excluded(episode) for episode in episodes]
        kept = [episode for episode, reason in zip(episodes, reasons, strict=True) if not reason]
        channels = dict(channels or {})
        columns, names = key_columns(kept)
        group_place = {name: code for code, name in enumerate(names["group_id"])}
        columns |= outcome_columns(kept)
        columns |= milestone_columns(kept, milestones)
        columns |= channel_columns(kept, channels)
        leaves = np.bincount(columns["turn_id"])[columns["turn_id"]]
        columns["weight"] = leaves.astype(float) if shared_weight == "leaves" else np.ones(len(leaves))
        turns = [turn for episode in kept for turn in episode.turns]
        return cls(
            columns=columns,
            episode_group=np.array([group_place[episode.group_id] for episode in kept], dtype=np.int64),
            names=names,
            tokens=token_columns(turns, columns["turn_id"], learner),
            milestones=tuple(milestones),
            channels=channels,
            excluded=ExclusionCount(len(kept), dict(Counter(filter(None, reasons)))),
        )

    # -- columns

    def __len__(self) -> int:
        return len(self.columns["episode_id"])

    def length_of(self, name: str) -> int:
        """How many entries a column of this name has: a number per turn, or per token."""
        return len(self.tokens.ids) if name.startswith(TOKEN) else len(self)

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Array:
        if name not in self.columns:
            raise KeyError(self._missing(name))
        return self.columns[name]

    def __getattr__(self, name: str) -> Array:
        if name.startswith("_") or name == "columns":  # asked by copy and pickle before there is anything
            raise AttributeError(name)
        if name not in self.columns:
            raise AttributeError(self._missing(name))
        return self.columns[name]

    def _missing(self, name: str) -> str:
        shown = ", ".join(column for column in self.columns if column not in KEYS)
        return f"no column {name!r} here; a stage sees what it declares in needs (there is: {shown})"

    def with_columns(self, columns: Mapping[str, Array]) -> TurnTable:
        """A table with columns added or replaced; this one stays as it is."""
        return replace(self, columns={**self.columns, **columns})

    def only(self, names: Iterable[str]) -> TurnTable:
        """A table with no columns but these and those that every stage sees."""
        wanted = {*names, *ALWAYS}
        table = copy(self)  # neither checked again nor sealed again: nothing in it is new
        object.__setattr__(table, "columns", {n: c for n, c in self.columns.items() if n in wanted})
        return table

    # -- episodes and groups

    @property
    def episodes(self) -> int:
        """How many episodes."""
        return len(self.episode_group)

    @cached_property
    def by_episode(self) -> Grouping:
        """Turns by episode: ``t.by_episode.sum(t.reward)`` is a value per episode."""
        return Grouping(self.episode_id, self.episodes)

    @cached_property
    def by_group(self) -> Grouping:
        """Turns by group."""
        return Grouping(self.group_id, len(self.names["group_id"]))

    @cached_property
    def episodes_by_group(self) -> Grouping:
        """Episodes by group, for values with one entry per episode."""
        return Grouping(self.episode_group, len(self.names["group_id"]))

    @cached_property
    def by_state(self) -> Grouping:
        """Turns by state: those of a group before which the learner had read, token for token, the same
        (GiGPO's anchor states, arXiv 2505.10978, by history). A turn in which it wrote nothing has a state
        of its own."""
        read = self.sequences()
        wrote = np.flatnonzero(self.tokens.trainable[read.tokens])
        rows, first = np.unique(read.rows[wrote], return_index=True)
        begin = np.repeat(read.offsets[:-1], np.diff(read.offsets))
        bits = scrambled(self.tokens.ids[read.tokens], np.arange(len(read.tokens)) - begin)
        before = np.cumsum(bits) - bits
        known = Grouping.of(self.group_id[rows], (before - before[begin])[wrote[first]])
        codes = known.count + np.arange(len(self))
        codes[rows] = known.codes
        return Grouping(codes, known.count + len(self))

    @cached_property
    def first(self) -> Array:
        """bool [turns]: the first turn of its episode."""
        return np.not_equal(np.diff(self.episode_id, prepend=-1), 0)

    @cached_property
    def last(self) -> Array:
        """bool [turns]: the last turn of its episode."""
        return np.not_equal(np.diff(self.episode_id, append=self.episodes), 0)

    def return_to_go(self, values: Array, gamma: float) -> Array:
        """``sum over k >= t of gamma^(k - t) * values_k`` within each episode: [turns] -> [turns].

        All episodes step back together, one turn at a time: as many numpy operations as the longest
        episode has turns, and no power of gamma that could overflow.
        """
        length = self.by_episode.size
        running = len(length) - np.cumsum(np.bincount(length))[:-1]  # episodes that have a turn 0, 1, …
        rank = np.empty_like(length)
        rank[np.argsort(-length, kind="stable")] = np.arange(len(length))
        turn = np.arange(len(self)) - (np.cumsum(length) - length)[self.episode_id]
        begin = np.cumsum(running) - running
        place = begin[turn] + rank[self.episode_id]  # turn by turn, the longest episodes first
        result = np.empty(len(self), dtype=np.float64)
        result[place] = values
        turns = [result[a : a + size] for a, size in zip(begin.tolist(), running.tolist(), strict=True)]
        for later, now in pairwise(reversed(turns)):
            reached = now[: len(later)]
            reached += gamma * later
        unfolded: Array = result[place]
        return unfolded

    # -- tokens

    def expand(self, values: Array) -> Array:
        """A value per turn to a value per token: [turns] -> [tokens], 0 on every token that the
        learner did not write. Rows of one shared turn count by their mean."""
        values = np.asarray(values)
        values = values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float64)
        if values.shape != (len(self),):
            raise ValueError(f"expand needs a value per turn, shape ({len(self)},), got {values.shape}")
        merged = values
        if len(self.names["turn_id"]) < len(self):
            by_turn = Grouping(self.turn_id, len(self.names["turn_id"]))
            merged = by_turn.spread(by_turn.mean(values)).astype(values.dtype)
        return np.where(self.tokens.trainable, merged[self.tokens.row], values.dtype.type(0))

    def gather(self, values: Array) -> Array:
        """A value per token to the sum over the tokens that the learner wrote in each turn: [tokens] ->
        [turns]. A token's NaN is no value, and neither is the sum of a turn without any."""
        valued = self.tokens.trainable & ~np.isnan(values)
        by_row = Grouping(self.tokens.row[valued], len(self))
        sums = np.where(by_row.size > 0, by_row.sum(values[valued]), np.nan)
        if len(self.names["turn_id"]) == len(self):
            return sums
        _, first, turn = np.unique(self.turn_id, return_index=True, return_inverse=True)
        return sums[first][turn]

    def sequences(self) -> Sequences:
        """The tokens in the order in which a model reads them, a sequence per episode and thread that
        has any."""
        rows = np.lexsort((self.index, self.thread_id, self.episode_id))
        rows = rows[self.tokens.stop[rows] > self.tokens.start[rows]]
        length = (self.tokens.stop - self.tokens.start)[rows]
        ends = np.cumsum(length)
        tokens = np.arange(int(length.sum())) + np.repeat(self.tokens.start[rows] - ends + length, length)
        of_turn = np.repeat(rows, length)
        keys = np.stack([self.episode_id[rows], self.thread_id[rows]])
        begins = np.flatnonzero(np.any(np.diff(keys, axis=1, prepend=-1) != 0, axis=0))
        return Sequences(
            tokens=tokens,
            offsets=np.append((ends - length)[begins], len(tokens)),
            owned=self.tokens.row[tokens] == of_turn,
            rows=of_turn,
            episode=self.episode_id[rows][begins],
        )


def scrambled(ids: Array, places: Array) -> Array:
    """Of a token at a place, 64 bits that look drawn at random (splitmix64): sums of them tell apart what was
    read."""
    bits = ids.astype(np.uint64) << np.uint64(32) | places.astype(np.uint64)
    bits += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


def _why_excluded(episode: Episode) -> str:
    if not episode.end.trainable:
        return episode.end.value
    return "" if episode.turns else NO_TURNS
