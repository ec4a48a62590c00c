"""What the terminal shows: readable at 80 columns, plain without a terminal, deaf to control characters."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from turnwise.envs.errors import UsageError
from turnwise.viewer.console import episode_view, overview
from turnwise.viewer.episodes import pick_episodes
from turnwise.viewer.progress import Progress
from turnwise.viewer.run_folder import RunFolder


def printed(renderable, width: int = 80) -> str:
    """What a pipe of some width would get."""
    out = io.StringIO()
    Console(file=out, width=width, markup=False, highlight=False).print(renderable)
    return out.getvalue()


def test_reward_and_advantage_stand_beside_each_turn(run) -> None:
    shown = printed(episode_view(RunFolder(run.path).episode("train-2/0-1")))
    lines = [line.split() for line in shown.splitlines() if "grep(" in line]
    assert [line[0] for line in lines] == ["1", "2", "3", "4"]
    assert all(line[-2:] == ["+0.25", "-1.00"] for line in lines)
    assert "✓ source read" in shown
    assert "copy delay to limit" in shown


def test_an_evaluation_has_no_advantage_and_its_outcome_as_reward(run) -> None:
    shown = printed(episode_view(RunFolder(run.path).episode("eval-test/0-0")))
    lines = [line.split() for line in shown.splitlines() if "grep(" in line]
    assert [line[-2:] for line in lines] == [["–", "–"], ["–", "–"], ["+0.00", "–"]]


def test_an_observation_cannot_command_the_terminal(run, episode) -> None:
    evil = "\u202e\x1b[2J\x1b]0;owned\x07\r\x9b31mred [bold]not markup[/bold]"
    run.trained(2, episode("train-2/0-0", score=1.0, observation=evil))
    shown = printed(episode_view(RunFolder(run.path).episode("train-2/0-0")), width=200)
    assert not {c for c in shown if ord(c) < 32 and c != "\n"}
    assert not {c for c in shown if 0x7F <= ord(c) < 0xA0 or c == "\u202e"}
    assert "[bold]not markup[/bold]" in shown


def test_nothing_is_wider_than_the_terminal(run, episode) -> None:
    run.trained(2, episode("train-2/0-0", score=1.0, observation="word " * 300))
    folder = RunFolder(run.path)
    shown = printed(overview(folder, pick_episodes(folder)))
    shown += printed(episode_view(folder.episode("train-2/0-0")))
    assert max(map(len, shown.splitlines())) <= 80


def test_the_overview_names_episodes_that_can_be_shown(run) -> None:
    folder = RunFolder(run.path)
    shown = printed(overview(folder, pick_episodes(folder)))
    named = {line.split()[0]: line for line in shown.splitlines() if line.startswith(("train-", "eval-"))}
    assert named["train-2/0-0"].rstrip().endswith("solved")
    assert named["train-2/0-1"].rstrip().endswith("not solved")
    assert all(folder.episode(name).episode.episode_id == name for name in named)
    with pytest.raises(UsageError, match="train-9/9-9"):
        folder.episode("train-9/9-9")


def test_the_newest_success_and_failure_are_picked(run) -> None:
    picks = {pick.title: pick.shown.episode.episode_id for pick in pick_episodes(RunFolder(run.path))}
    assert picks == {
        "Solved": "train-2/0-0",
        "Not solved": "train-2/0-1",
        "Evaluation, not solved": "eval-test/0-0",
        "How it began": "train-1/0-1",
    }


def test_progress_without_a_terminal_is_plain_lines(rows) -> None:
    train_row, evaluation_row = rows
    out = io.StringIO()
    with Progress(Console(file=out, width=80), "quickstart", steps=40) as progress:
        assert out.getvalue() == ""
        progress.log(train_row(1))
        progress.log(evaluation_row(10))
        progress.log({"kind": "warning", "step": 10, "reason": "completion fell\x1b[2J"})
    lines = out.getvalue().splitlines()
    assert lines[0] == "quickstart"
    assert "evaluation: 55% (43–67%) on 64 tasks of validation, step 10" in lines
    assert "\x1b" not in out.getvalue()
    assert "warning at step 10: completion fell\\x1b[2J" in lines


def test_the_display_shows_success_milestones_speed_and_time_left(rows) -> None:
    train_row, evaluation_row = rows
    progress = Progress(Console(file=io.StringIO(), width=80), "quickstart", steps=40)
    progress.log(evaluation_row(0))
    for step in (1, 2):
        progress.log(train_row(step))
    progress.phase("rollout", 3, 8)
    view = printed(progress.view())
    for words in (
        "rollout, 3 of 8",
        "2 of 40",
        " left",
        "12%",
        "55% (43–67%)",
        "source read",
        "7,000 tokens/s",
    ):
        assert words in view
