"""Where metrics go: whole lines, the rows a resumed run writes anew, and scalars for services."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from turnwise.envs.errors import UsageError
from turnwise.trainer.tracker import JsonLines, Row, Trackers, scalars, tracker, truncate


def write(path: Path, *rows: Row) -> None:
    lines = JsonLines(path)
    for row in rows:
        lines.log(row)
    lines.close()


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_are_appended_as_lines_and_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, {"kind": "start", "step": 0})
    lines = JsonLines(path)
    lines.log({"kind": "train", "step": 1, "nested": {"a": 1.5}, "reason": "é\n"})
    assert path.read_bytes().endswith(b"\n")
    assert read(path)[1] == {"kind": "train", "step": 1, "nested": {"a": 1.5}, "reason": "é\n"}
    assert len(read(path)) == 2
    lines.close()


def test_a_number_that_json_lacks_is_refused(tmp_path: Path) -> None:
    """Better here than in whatever reads the file; and the file stays readable."""
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        lines.log({"kind": "eval", "step": 1, "low": math.nan})
    lines.log({"kind": "eval", "step": 1})
    lines.close()
    assert read(path) == [{"kind": "eval", "step": 1}]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, disk: Any) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    disk(100)
    lines.log({"kind": "start", "step": 0})
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        lines.log({"kind": "train", "step": 1, "reason": "x" * 100})
    disk(math.inf)
    lines.close()
    assert path.stat().st_size == 100
    truncate(path, 0, 0)
    assert read(path) == [{"kind": "start", "step": 0}]


# ---------------------------------------------------------------- what a resumed run keeps

HISTORY = [
    {"kind": "start", "step": 0},
    {"kind": "warm_start", "step": 0, "round": 1},
    {"kind": "warm_start", "step": 0, "round": 2},
    {"kind": "eval", "step": 0},
    {"kind": "train", "step": 1},
    {"kind": "warning", "step": 1},
    {"kind": "train", "step": 2},
    {"kind": "eval", "step": 2},
    {"kind": "stop", "step": 2},
    {"kind": "final", "step": 2},
]


@pytest.mark.parametrize(
    ("step", "round_", "kept"),
    [
        (2, 2, HISTORY[:9]),  # the checkpoint of step 2 is of after its evaluation; the end comes anew
        (1, 2, HISTORY[:6]),
        (0, 2, HISTORY[:3]),  # the evaluation before the first step is not in a checkpoint
        (0, 1, HISTORY[:2]),
        (0, 0, HISTORY[:1]),
    ],
)
def test_rows_that_will_be_written_again_are_dropped(
    tmp_path: Path, step: int, round_: int, kept: list[dict[str, Any]]
) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, *HISTORY)
    truncate(path, step, round_)
    assert read(path) == kept
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("torn", ['{"kind": "train", "st', "{", '{"kind": "train", "step": 1, "a": "b'])
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, *HISTORY[:4])
    with path.open("a") as file:
        file.write(torn)
    truncate(path, 1, 2)
    assert read(path) == HISTORY[:4]
    write(path, HISTORY[4])
    assert read(path) == HISTORY[:5]


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "start", "step": 0}')
    truncate(path, 0, 0)
    write(path, HISTORY[4])
    assert read(path) == [HISTORY[0], HISTORY[4]]


# ---------------------------------------------------------------- services


def test_nested_numbers_have_paths_and_words_are_left_out() -> None:
    row = {
        "kind": "train",
        "step": 3,
        "success": 0.5,
        "tokens": 7,
        "split": "test",
        "none": None,
        "milestones": {"found": 1.0, "deep": {"er": 2}},
        "excluded": {},
    }
    assert dict(scalars(row)) == {
        "success": 0.5,
        "tokens": 7.0,
        "milestones/found": 1.0,
        "milestones/deep/er": 2.0,
    }


def test_tensorboard_gets_every_number_of_a_row(tmp_path: Path) -> None:
    board = tracker("tensorboard", tmp_path)
    board.log({"kind": "train", "step": 1, "success": 0.25, "milestones": {"found": 0.5}})
    board.log({"kind": "train", "step": 2, "success": 0.75})
    board.log({"kind": "stop", "step": 2, "reason": "enough"})
    board.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/success", "train/milestones/found"]
    assert [(e.step, e.value) for e in events.Scalars("train/success")] == [(1, 0.25), (2, 0.75)]


def test_an_unknown_tracker_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown tracker 'tensorbord'; did you mean 'tensorboard'\?"):
        tracker("tensorbord", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_whose_package_is_missing_says_what_to_install(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    with pytest.raises(UsageError, match=rf"tracker '{name}' needs a package: pip install {name}"):
        tracker(name, tmp_path)


def test_several_trackers_hear_the_same(tmp_path: Path) -> None:
    both = Trackers([JsonLines(tmp_path / "a"), JsonLines(tmp_path / "b")])
    both.log({"kind": "train", "step": 1})
    both.close()
    assert read(tmp_path / "a") == read(tmp_path / "b") == [{"kind": "train", "step": 1}]
