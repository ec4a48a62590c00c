"""Episodes on disk: what is read is what was written, and damage is noticed where it is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from turnwise.agents.store import (
    episode_files,
    episode_path,
    export_parquet,
    find_episode,
    read_episodes,
    write_episodes,
)
from turnwise.agents.trajectory import Episode, Sampling, Source, Span, Turn
from turnwise.envs.errors import UsageError
from turnwise.envs.types import (
    AgentView,
    CallAction,
    EndReason,
    FinishAction,
    ImageBlock,
    InvalidAction,
    RewardTerm,
    StepRecord,
    TaskRef,
    TextAction,
    TextBlock,
    ToolCall,
    ToolSpec,
    call,
    text,
)

# ---------------------------------------------------------------- episodes of every shape

WORDS = st.text(max_size=6)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SECONDS = st.floats(0, 1e6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | WORDS,
    lambda children: st.lists(children, max_size=2) | st.dictionaries(WORDS, children, max_size=2),
    max_leaves=4,
)
OBJECTS = st.dictionaries(WORDS, JSON, max_size=2)


def few(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, max_size=2).map(tuple)


@st.composite
def spans(draw: st.DrawFn) -> Span:
    ids = draw(few(st.integers(0, 2**31)))
    logprobs = tuple(draw(FLOATS.map(lambda x: -abs(x))) for _ in ids)
    source = draw(st.sampled_from(get_args(Source)))
    if source == "policy":
        return Span(ids, source, draw(WORDS), logprobs, tuple(range(len(ids))))
    return Span(ids, source, logprobs=draw(st.sampled_from([None, logprobs])))


ACTIONS = st.one_of(
    st.builds(TextAction, text=WORDS),
    st.builds(FinishAction, answer=WORDS),
    st.builds(InvalidAction, text=WORDS, error=WORDS),
    st.builds(
        CallAction,
        calls=st.lists(st.builds(ToolCall, name=WORDS, arguments=OBJECTS), min_size=1, max_size=2).map(tuple),
    ),
)
IMAGES = st.builds(ImageBlock, media_type=st.just("image/png"), data=st.binary(max_size=4))
TOOLS = st.builds(ToolSpec, name=WORDS, description=WORDS, parameters=OBJECTS)
VIEWS = st.builds(AgentView, content=few(st.builds(TextBlock, text=WORDS) | IMAGES), tools=few(TOOLS))
TERMS = st.builds(RewardTerm, channel=WORDS, level=st.integers(0, 3), value=st.none() | FLOATS)
RECORDS = st.builds(
    StepRecord,
    turn=st.integers(0, 99),
    terms=few(TERMS),
    milestones=few(WORDS),
    valid=st.booleans(),
    seconds=SECONDS,
    end=st.none() | st.sampled_from(EndReason),
    score=st.none() | st.floats(0, 1),
)
TURNS = st.builds(
    Turn,
    turn_id=WORDS,
    parent_id=st.none() | WORDS,
    episode_id=WORDS,
    group_id=WORDS,
    index=st.integers(0, 99),
    spans=few(spans()),
    action=ACTIONS,
    record=RECORDS,
    observation=VIEWS,
    text=WORDS,
    seconds=SECONDS,
)
EPISODES = st.builds(
    Episode,
    episode_id=WORDS,
    group_id=WORDS,
    task=st.builds(TaskRef, env=WORDS, id=WORDS, seed=st.integers(0, 2**63)),
    policy=WORDS,
    opening=VIEWS,
    turns=few(TURNS),
    end=st.sampled_from(EndReason),
    score=st.floats(0, 1),
    sampling=st.none() | st.builds(Sampling, temperature=st.floats(0, 3)),
    error=WORDS,
    retries=st.integers(0, 3),
    seconds=SECONDS,
    tags=st.dictionaries(WORDS, WORDS, max_size=2),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(episodes=st.lists(EPISODES, max_size=3))
def test_what_is_read_is_what_was_written(episodes: list[Episode]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "new" / "step-000001.jsonl"
        write_episodes(path, episodes)
        back = list(read_episodes(path))
        assert back == episodes
        assert repr(back) == repr(episodes), "also -0.0, and 1 is not 1.0"
        assert [p.name for p in path.parent.iterdir()] == [path.name]


# ---------------------------------------------------------------- one plain episode


def episode(name: str = "train-1/0-0", **changes: Any) -> Episode:
    """Two turns: a call that reached a milestone, and the end."""
    sampled = Span((7, 8), "policy", "learner", (-0.1, -2.5), (3, 4))
    common: dict[str, Any] = {"episode_id": name, "group_id": "train-1/0"}
    terms = (RewardTerm(channel="validity", level=1, value=1.0),)
    outcome = RewardTerm(channel="outcome", level=0, value=None)
    record = StepRecord(turn=1, terms=(*terms, outcome), end=EndReason.SUBMITTED, score=1.0)
    turns = (
        Turn(
            f"{name}.0",
            None,
            index=0,
            spans=(Span((1, 2, 3), "env"), sampled),
            action=call("set", key="a"),
            record=StepRecord(turn=0, terms=terms, milestones=("found",)),
            observation=text("ok é"),
            text="set a",
            **common,
        ),
        Turn(
            f"{name}.1",
            f"{name}.0",
            index=1,
            spans=(Span((9,), "forced"), Span((4,), "env"), sampled),
            action=FinishAction(),
            record=record,
            observation=text(""),
            **common,
        ),
    )
    task = TaskRef(env="tools/x", id="train/5", seed=5)
    made = Episode(name, "train-1/0", task, "learner", text("go"), turns, EndReason.SUBMITTED, 1.0)
    return replace(made, **changes)


def test_a_line_can_be_searched_for(tmp_path: Path) -> None:
    path = tmp_path / "step-000001.jsonl"
    write_episodes(path, [episode("train-1/0-0"), episode("train-1/0-1")])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert lines[1].startswith('{"version":1,"episode":{"episode_id":"train-1/0-1",')
    assert "ok é" in lines[0]


DAMAGE = {
    "torn": lambda line: line[:-20],
    "unterminated": lambda line: line.rstrip(b"\n"),
    "empty": lambda line: b"\n",
    "no JSON": lambda line: b"episode\n",
    "another version": lambda line: line.replace(b'"version":1', b'"version":2'),
    "no version": lambda line: line.replace(b'"version":1,', b""),
    "a missing field": lambda line: line.replace(b'"policy":"learner",', b"", 1),
    "a wrong type": lambda line: line.replace(b'"retries":0', b'"retries":"0"'),
    "lost log-probabilities": lambda line: line.replace(b"[-0.1,-2.5]", b"[-0.1]", 1),
    "an unknown end": lambda line: line.replace(b'"submitted"', b'"tired"'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_an_error_that_names_the_line(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "step-000007.jsonl"
    write_episodes(path, [episode(), episode()])
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + damage(second))
    reading = read_episodes(path)
    assert next(reading) == episode()
    with pytest.raises(UsageError, match=r"step-000007\.jsonl, line 2"):
        next(reading)


@pytest.mark.parametrize(
    "broken",
    [
        episode(seconds=float("nan")),
        episode(score=float("inf")),
        episode(turns=(replace(episode().turns[0], seconds=float("inf")),)),
        episode(
            turns=(replace(episode().turns[0], spans=(Span((1,), "policy", "", (float("-inf"),), (0,)),)),)
        ),
    ],
)
def test_what_json_cannot_say_is_refused_and_nothing_changes(tmp_path: Path, broken: Episode) -> None:
    path = tmp_path / "step-000001.jsonl"
    write_episodes(path, [episode("old")])
    with pytest.raises(ValueError, match="train-1/0-0"):
        write_episodes(path, [episode("new"), broken])
    assert [e.episode_id for e in read_episodes(path)] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_writing_that_is_interrupted_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "step-000001.jsonl"
    write_episodes(path, [episode("old")])

    def interrupted() -> Iterator[Episode]:
        yield episode("new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_episodes(path, interrupted())
    assert [e.episode_id for e in read_episodes(path)] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------- runs


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Steps 2 and 1000000 and an evaluation after each, written out of order."""
    write_episodes(episode_path(tmp_path, "eval", 1_000_000), [episode("eval-1000000/0-0")])
    write_episodes(episode_path(tmp_path, "step", 1_000_000), [episode("train-1000000/0-0")])
    write_episodes(episode_path(tmp_path, "eval", 2), [episode("eval/0-0", error="early")])
    write_episodes(episode_path(tmp_path, "step", 2), [episode("train-2/0-0"), episode("train-2/0-1")])
    (tmp_path / "episodes" / ".step-000003.jsonl.77").write_text("left behind")
    (tmp_path / "episodes" / "notes.jsonl").write_text("mine")
    return tmp_path


def test_the_files_of_a_run_come_in_order(run: Path) -> None:
    names = ["step-000002", "eval-000002", "step-1000000", "eval-1000000"]
    assert [path.stem for path in episode_files(run)] == names
    assert episode_files(run / "absent") == []


def test_an_episode_is_found_by_its_name(run: Path) -> None:
    assert find_episode(run, "train-2/0-1") == episode("train-2/0-1")
    write_episodes(episode_path(run, "eval", 9), [episode("eval/0-0", error="late")])
    assert find_episode(run, "eval/0-0").error == "late"
    with pytest.raises(UsageError, match="no episode 'train-2/0' in the 5 files"):
        find_episode(run, "train-2/0")


def test_a_run_is_exported_a_row_per_turn(run: Path, tmp_path: Path) -> None:
    assert export_parquet(run, tmp_path / "out.parquet") == 10
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.num_rows == 10
    row = table.slice(3, 1).to_pylist()[0]
    assert row["file"] == "step-000002"
    assert (row["episode_id"], row["turn_id"], row["index"]) == ("train-2/0-1", "train-2/0-1.1", 1)
    assert row["ids"] == [9, 4, 7, 8]
    assert row["sources"] == ["forced", "env", "policy", "policy"]
    assert row["logprobs"] == [None, None, -0.1, -2.5]
    assert row["rewards"] == [
        {"channel": "validity", "level": 1, "value": 1.0},
        {"channel": "outcome", "level": 0, "value": None},
    ]
    assert table.column("milestones").to_pylist()[:2] == [["found"], []]
    assert json.loads(row["action"]) == {"kind": "finish", "answer": ""}
    assert (row["env"], row["task"], row["end"], row["score"]) == ("tools/x", "train/5", "submitted", 1.0)


def test_exporting_says_what_is_missing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no episodes"):
        export_parquet(tmp_path / "absent", tmp_path / "out.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"turnwise\[export\]"):
        export_parquet(run, tmp_path / "out.parquet")
