"""From episodes to the columns of the turn table.

Episodes are Python objects; credit is arithmetic on arrays. Here is the one place where turns and
spans are walked over, once, to fill flat arrays: one entry per turn for what the environment said, one
entry per token for what was read and written.

What the columns are called is decided here too, so that a recipe can be checked against an environment
before anything has been run (:func:`base_columns`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np

from turnwise.agents.trajectory import Episode, Source, Span, Turn
from turnwise.envs.errors import UsageError, unknown
from turnwise.envs.types import EndReason
from turnwise.trainer.grouping import Array

KEYS = ("turn_id", "parent_id", "episode_id", "group_id", "thread_id")
ALWAYS = (*KEYS, "index", "weight")
"""Columns that every stage sees without asking."""
OBSERVED = ("reward", "outcome", "valid", "terminal", "truncated", "submitted")
"""Columns that every environment gives."""
TOKEN = "token:"
"""Begins the names of columns with an entry per token instead of per turn."""
POTENTIAL = ("progress", "potential_before", "potential_after")
"""Columns of an environment with milestones."""
SOURCES: tuple[Source, ...] = ("policy", "env", "forced", "demo")
"""The writers of tokens; a token's ``source`` is the place in this list."""
TRUNCATING = frozenset({EndReason.TURN_LIMIT, EndReason.TIME_LIMIT, EndReason.CONTEXT_LIMIT})
"""Ends that cut an episode off in a state from which it could have gone on."""
NO_TURNS = "no_turns"
"""Why an episode that ended before its first turn is left out: nothing in it can be trained."""


def base_columns(milestones: Sequence[str], channels: Iterable[str]) -> tuple[str, ...]:
    """The columns that a table has before any stage, given what the environment declares."""
    named = [f"milestone:{name}" for name in milestones]
    scored = [f"channel:{name}" for name in channels]
    return (*ALWAYS, *OBSERVED, *(POTENTIAL if milestones else ()), *named, *scored)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Flat columns with an entry per token, and the range ``start[row]:stop[row]`` of each turn.

    A turn that several episodes share stores its tokens once; all its rows point at them.
    """

    ids: Array
    logprobs: Array
    """float32, NaN where nothing was sampled: a missing log-probability is not 0."""
    trainable: Array
    source: Array
    """Place in ``SOURCES``."""
    version: Array
    """Weights the token was sampled under, -1 where it was not."""
    row: Array
    """The first row of the turn each token belongs to."""
    start: Array
    stop: Array


def factorise(names: Iterable[str]) -> tuple[Array, Array]:
    """Integer codes in order of first appearance, and the names they stand for."""
    codes: dict[str, int] = {}
    column = np.array([codes.setdefault(name, len(codes)) for name in names], dtype=np.int64)
    return column, np.array(list(codes), dtype=object)


def key_columns(episodes: Sequence[Episode]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The keys as codes, and the names behind the codes."""
    lengths = np.array([len(episode.turns) for episode in episodes], dtype=np.int64)
    turns = [turn for episode in episodes for turn in episode.turns]
    episode_codes, episode_names = factorise(episode.episode_id for episode in episodes)
    if len(episode_names) < len(episodes):
        twice = episode_names[np.flatnonzero(np.bincount(episode_codes) > 1)[0]]
        raise UsageError(f"episode {twice!r} appears more than once; give every episode its own id")
    group_codes, group_names = factorise(episode.group_id for episode in episodes)
    turn_codes, turn_names = factorise(turn.turn_id for turn in turns)
    thread_codes, thread_names = factorise(turn.thread_id for turn in turns)
    place = {name: code for code, name in enumerate(turn_names)}
    columns = {
        "turn_id": turn_codes,
        "parent_id": np.array([place.get(turn.parent_id, -1) for turn in turns], dtype=np.int64),
        "episode_id": np.repeat(episode_codes, lengths),
        "group_id": np.repeat(group_codes, lengths),
        "thread_id": thread_codes,
        "index": np.arange(len(turns)) - np.repeat(np.cumsum(lengths) - lengths, lengths),
    }
    names = {"episode_id": episode_names, "group_id": group_names}
    names |= {"turn_id": turn_names, "parent_id": turn_names, "thread_id": thread_names}
    return columns, names


def outcome_columns(episodes: Sequence[Episode]) -> dict[str, Array]:
    """What is known from the episodes' ends: scores on last turns, kinds of end, and validity."""
    lengths = np.array([len(episode.turns) for episode in episodes], dtype=np.int64)
    scores = np.array([episode.score for episode in episodes], dtype=np.float64)
    cut = np.array([episode.end in TRUNCATING for episode in episodes], dtype=bool)
    submitted = np.array([episode.end is EndReason.SUBMITTED for episode in episodes], dtype=bool)
    last = np.zeros(int(lengths.sum()), dtype=bool)
    last[np.cumsum(lengths) - 1] = True
    outcome = np.repeat(scores, lengths)
    valid = [turn.record.valid for episode in episodes for turn in episode.turns]
    return {
        "reward": np.where(last, outcome, 0.0),
        "outcome": outcome,
        "valid": np.array(valid, dtype=bool),
        "terminal": last & ~np.repeat(cut, lengths),
        "truncated": last & np.repeat(cut, lengths),
        "submitted": last & np.repeat(submitted, lengths),
    }


def milestone_columns(episodes: Sequence[Episode], milestones: Sequence[str]) -> dict[str, Array]:
    """Which turn first reached each milestone, and the share reached before and after every turn."""
    if not milestones:
        return {}
    place = {name: column for column, name in enumerate(milestones)}
    turns = [turn for episode in episodes for turn in episode.turns]
    said = np.zeros((len(turns), len(milestones)), dtype=bool)
    for row, turn in enumerate(turns):
        for name in turn.record.milestones:
            if name not in place:
                raise unknown("milestone", name, milestones)
            said[row, place[name]] = True
    lengths = np.array([len(episode.turns) for episode in episodes], dtype=np.int64)
    total = np.cumsum(said, axis=0)
    start = np.cumsum(lengths) - lengths
    within = total - np.repeat((total - said)[start], lengths, axis=0)
    first = said & (within == 1)
    after = (within > 0).sum(axis=1)
    columns = {f"milestone:{name}": first[:, column] for name, column in place.items()}
    columns["progress"] = first.sum(axis=1) / len(milestones)
    columns["potential_before"] = (after - first.sum(axis=1)) / len(milestones)
    columns["potential_after"] = after / len(milestones)
    return columns


def channel_columns(episodes: Sequence[Episode], channels: Mapping[str, int]) -> dict[str, Array]:
    """The reward terms of every turn; NaN where a channel was not scored, which is not 0."""
    turns = [turn for episode in episodes for turn in episode.turns]
    columns = {name: np.full(len(turns), np.nan) for name in channels}
    for row, turn in enumerate(turns):
        seen: set[str] = set()
        for term in turn.record.terms:
            if term.channel not in channels:
                raise unknown("reward channel", term.channel, channels)
            if term.channel in seen or term.level != channels[term.channel]:
                raise UsageError(
                    f"turn {turn.turn_id}: channel {term.channel!r} must come once, at level "
                    f"{channels[term.channel]}; got level {term.level}"
                )
            seen.add(term.channel)
            if term.value is not None:
                columns[term.channel][row] = term.value
    return {f"channel:{name}": column for name, column in columns.items()}


def token_columns(turns: Sequence[Turn], turn_codes: Array, learner: str) -> Tokens:
    """The tokens of every turn, in order, a shared turn's once.

    Raises ``UsageError`` where tokens were sampled but none by ``learner``, and where two turns that
    differ carry one id.
    """
    _, first, row_of_turn = np.unique(turn_codes, return_index=True, return_inverse=True)
    owner = np.zeros(len(turns), dtype=bool)
    owner[first] = True
    lengths = np.array([sum(len(span.ids) for span in turn.spans) for turn in turns], dtype=np.int64)
    owners = first[row_of_turn]
    for row in np.flatnonzero(~owner).tolist():
        one, other = turns[row], turns[owners[row]]
        if one.spans != other.spans or one.group_id != other.group_id or one.index != other.index:
            raise UsageError(f"turn id {one.turn_id!r} names two turns that differ; ids must be unique")
    kept = np.where(owner, lengths, 0)
    start = (np.cumsum(kept) - kept)[owners]
    spans = [span for row in np.flatnonzero(owner).tolist() for span in turns[row].spans]
    tokens = Tokens(
        **span_columns(spans, learner),
        row=np.repeat(np.arange(len(turns)), kept),
        start=start,
        stop=start + lengths,
    )
    authors = sorted({span.author for span in spans if span.source == "policy"})
    if authors and learner not in authors:
        raise UsageError(
            f"no token was sampled by the learner {learner!r}: the authors are {', '.join(authors)}"
        )
    return tokens


def span_columns(spans: Sequence[Span], learner: str) -> dict[str, Array]:
    """Flat columns over the tokens of spans."""
    lengths = np.array([len(span.ids) for span in spans], dtype=np.int64)
    total = int(lengths.sum())
    learned = np.array([span.source == "policy" and span.author == learner for span in spans], dtype=bool)
    source = np.array([SOURCES.index(span.source) for span in spans], dtype=np.uint8)
    logprobs = (repeat(np.nan, len(s.ids)) if s.logprobs is None else s.logprobs for s in spans)
    versions = (repeat(-1, len(s.ids)) if s.versions is None else s.versions for s in spans)
    return {
        "ids": np.fromiter(chain.from_iterable(span.ids for span in spans), np.int64, total),
        "logprobs": np.fromiter(chain.from_iterable(logprobs), np.float32, total),
        "version": np.fromiter(chain.from_iterable(versions), np.int64, total),
        "trainable": np.repeat(learned, lengths),
        "source": np.repeat(source, lengths),
    }
