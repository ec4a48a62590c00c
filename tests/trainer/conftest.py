"""Small batches of finished episodes, written by hand or drawn at random."""

from __future__ import annotations

import importlib.util
import math
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import strategies as st

from turnwise.agents.trajectory import Episode, Span, Turn
from turnwise.envs.types import EndReason, RewardTerm, StepRecord, TaskRef, TextAction, text
from turnwise.trainer import stage as stage_module
from turnwise.trainer.stage import find_stage
from turnwise.trainer.table import TurnTable

MILESTONES = ("found", "changed", "checked", "sent")
CHANNELS = {"outcome": 0, "validity": 1, "modified": 1}
SUBMITTED = EndReason.SUBMITTED
SMALL_MODEL = {
    "model_type": "qwen3",
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
"""A model's configuration that a test can go through token by token."""


def env_span(*ids: int) -> Span:
    """What was read."""
    return Span(ids=ids, source="env")


def policy_span(*ids: int, author: str = "learner") -> Span:
    """What was sampled, each token at log-probability -1 under version 3."""
    return Span(ids, "policy", author, logprobs=(-1.0,) * len(ids), versions=(3,) * len(ids))


def make_turn(
    episode: str,
    group: str,
    index: int,
    reached: Sequence[str] = (),
    scored: Mapping[str, float] | None = None,
    **changes: Any,
) -> Turn:
    """A turn that reads two tokens and writes ``index + 1``; ``scored`` are its channels, ``changes``
    replace its fields."""
    terms = tuple(RewardTerm(channel=c, level=CHANNELS[c], value=v) for c, v in (scored or {}).items())
    record = changes.pop("record", StepRecord(turn=index, milestones=tuple(reached), terms=terms))
    fields: dict[str, Any] = {
        "turn_id": f"{episode}.{index}",
        "parent_id": f"{episode}.{index - 1}" if index else None,
        "episode_id": episode,
        "group_id": group,
        "index": index,
        "spans": (env_span(1, 2), policy_span(*range(10, 11 + index))),
        "action": TextAction(text="x"),
        "record": record,
        "observation": text("seen"),
    }
    return Turn(**(fields | changes))


def make_episode(
    name: str,
    group: str,
    turns: int | Sequence[Turn],
    score: float | None = 0.0,
    end: EndReason = SUBMITTED,
    reached: Mapping[int, Sequence[str]] | None = None,
    scored: Mapping[int, Mapping[str, float]] | None = None,
) -> Episode:
    """An episode of so many turns, or of these; ``reached`` says which milestones at which turn, and
    ``scored`` which channels."""
    if isinstance(turns, int):
        facts = [((reached or {}).get(i, ()), (scored or {}).get(i)) for i in range(turns)]
        turns = [make_turn(name, group, i, *fact) for i, fact in enumerate(facts)]
    return Episode(
        episode_id=name,
        group_id=group,
        task=TaskRef(env="test/none", id=group, seed=0),
        policy="learner",
        opening=text("start"),
        turns=tuple(turns),
        end=end,
        score=score,
    )


def table_of(*episodes: Episode) -> TurnTable:
    """A table of an environment with the milestones and channels above."""
    return TurnTable.from_episodes(episodes, MILESTONES, CHANNELS)


def run_stage(
    name: str, table: TurnTable, state: Mapping[str, Any] | None = None, **params: Any
) -> TurnTable:
    """The table with one stage's columns."""
    columns, _ = find_stage(name).bind(params).apply(table, state or {})
    return table.with_columns(columns)


ENDS = st.sampled_from([SUBMITTED, EndReason.TURN_LIMIT, EndReason.AGENT_FAULT])


@st.composite
def an_episode(draw: st.DrawFn, name: str, group: str, ends: st.SearchStrategy[EndReason]) -> Episode:
    """One to six turns; every milestone at some turn or never; turns valid, invalid or not judged."""
    length = draw(st.integers(1, 6))
    reached: dict[int, list[str]] = {}
    for milestone in MILESTONES:
        turn = draw(st.none() | st.integers(0, length - 1))
        if turn is not None:
            reached.setdefault(turn, []).append(milestone)
    score = draw(st.sampled_from([0.0, 0.1, 0.3, 1.0]))
    scored: dict[int, dict[str, float]] = {i: {} for i in range(length)}
    for judged in scored.values():
        valid = draw(st.none() | st.sampled_from([0.0, 1.0]))
        judged |= {} if valid is None else {"validity": valid}
    scored[length - 1]["modified"] = draw(st.sampled_from([0.0, 1.0]))
    return make_episode(name, group, length, score, draw(ends), reached, scored)


@st.composite
def batches(draw: st.DrawFn, ends: st.SearchStrategy[EndReason] = ENDS, tag: str = "e") -> list[Episode]:
    """One to four groups of one to four episodes."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    names = [(f"{tag}{g}-{i}", f"{tag}{g}") for g, size in enumerate(sizes) for i in range(size)]
    return [draw(an_episode(name, group, ends)) for name, group in names]


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    """What the tests of credit build their batches with."""
    return SimpleNamespace(
        milestones=MILESTONES,
        channels=CHANNELS,
        env_span=env_span,
        policy_span=policy_span,
        turn=make_turn,
        episode=make_episode,
        table=table_of,
        run=run_stage,
        batches=batches,
        small_model=SMALL_MODEL,
    )


@pytest.fixture
def fresh_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that a test defines are forgotten after it."""
    monkeypatch.setattr(stage_module, "_STAGES", dict(stage_module.stages()))


@pytest.fixture(scope="session")
def guess() -> ModuleType:
    """The environment, the recipe and the mortal runs of guess.py, for tests that train."""
    spec = importlib.util.spec_from_file_location("guess", Path(__file__).with_name("guess.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["guess"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def disk() -> Iterator[Callable[[float], None]]:
    """As if the disk were full: no file can grow beyond so many bytes, until it is called with infinity."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: float) -> None:
        bound = before[0] if size == math.inf else int(size)
        resource.setrlimit(resource.RLIMIT_FSIZE, (bound, before[1]))

    yield limit
    limit(math.inf)
