"""Runs made by hand: a folder as the trainer leaves it, at any stage and with any observation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from turnwise.agents.store import episode_path, write_episodes
from turnwise.agents.trajectory import Episode, Turn
from turnwise.envs.types import EndReason, RewardTerm, StepRecord, TaskRef, call, text
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.run_folder import Summary

MILESTONES = ("source_read", "value_set")


def make_episode(name: str, *, score: float, observation: str = "ok", turns: int = 3) -> Episode:
    """An episode that reaches a milestone at its second turn."""
    made = []
    for i in range(turns):
        last = i == turns - 1
        record = StepRecord(
            turn=i,
            terms=(RewardTerm(channel="outcome", level=0, value=score),) if last else (),
            milestones=("source_read",) if i == 1 else (),
            end=EndReason.SUBMITTED if last else None,
            score=score if last else None,
        )
        parent = f"{name}.{i - 1}" if i else None
        action, shown = call("grep", word=f"w{i}"), text(observation)
        made.append(Turn(f"{name}.{i}", parent, name, name[:-2], i, (), action, record, shown))
    task = TaskRef(env="tools/configdesk", id="level-1/train/0", seed=0)
    return Episode(
        episode_id=name,
        group_id=name[:-2],
        task=task,
        policy="by hand",
        opening=text("copy delay to limit"),
        turns=tuple(made),
        end=EndReason.SUBMITTED,
        score=score,
    )


def train_row(step: int, **more: Any) -> dict[str, Any]:
    """A row of metrics as a training step writes it."""
    return {
        "kind": "train",
        "step": step,
        "wall_seconds": 2.0 * step,
        "cpu_seconds": 3.0 * step,
        "success": min(1.0, 0.1 + 0.01 * step),
        "completion": 0.8,
        "turns": 8.0,
        "valid": 0.9,
        "episodes": 8 * step,
        "milestones": dict.fromkeys(MILESTONES, 0.5),
        "excluded": {},
        "tokens_per_second": 7000.0,
        "seconds": {"rollout": 0.6, "credit": 0.01, "update": 0.3},
    } | more


def evaluation_row(step: int, kind: str = "eval", **more: Any) -> dict[str, Any]:
    """A row of metrics as an evaluation writes it."""
    row = {"kind": kind, "step": step, "wall_seconds": 0.0, "cpu_seconds": 0.0, "tasks": 64}
    figures = {"success": 0.55, "low": 0.43, "high": 0.67, "completion": 0.9, "turns": 8.1}
    return row | figures | {"split": "test" if kind == "final" else "validation"} | more


class RunMaker:
    """Writes parts of a run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(Recipe.load("quickstart").to_yaml())

    def rows(self, *rows: dict[str, Any]) -> None:
        """Append rows of metrics."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def trained(self, step: int, *episodes: Episode, advantage: float = 1.0) -> None:
        """Store a step's episodes; a solved one's advantages are positive, the others' negative."""
        write_episodes(episode_path(self.path, "step", step), episodes)
        lines = []
        for e in episodes:
            sign = advantage if e.score == 1.0 else -advantage
            columns = {"step_reward": [0.25] * len(e.turns), "advantage": [sign] * len(e.turns)}
            lines.append(json.dumps({"episode_id": e.episode_id, "columns": columns}) + "\n")
        (self.path / "credit").mkdir(exist_ok=True)
        (self.path / f"credit/step-{step:06d}.jsonl").write_text("".join(lines))

    def finished(self, stopped: str = "finished") -> None:
        """Write the summary."""
        summary = Summary(
            recipe="quickstart",
            env="tools/configdesk?level=1",
            seed=0,
            steps=2,
            episodes=16,
            held_out_success=0.55,
            interval=(0.43, 0.67),
            task_set_hash="0" * 12,
            cpu_seconds=6.0,
            wall_seconds=4.0,
            peak_rss_mb=512.0,
            stopped=stopped,
        )
        (self.path / "summary.json").write_text(summary.model_dump_json())


@pytest.fixture
def begun(tmp_path: Path) -> RunMaker:
    """A run that has only just begun."""
    return RunMaker(tmp_path / "runs" / "begun")


@pytest.fixture
def run(tmp_path: Path) -> RunMaker:
    """A finished run of two steps with two episodes each."""
    made = RunMaker(tmp_path / "runs" / "whole")
    made.rows({"kind": "start", "step": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0, "phase": "warm_start"})
    for step in (1, 2):
        solved = make_episode(f"train-{step}/0-0", score=1.0)
        failed = make_episode(f"train-{step}/0-1", score=0.0, turns=4)
        made.trained(step, solved, failed)
        made.rows(train_row(step), evaluation_row(step))
    made.rows(evaluation_row(2, "final"))
    write_episodes(episode_path(made.path, "final", 2), [make_episode("eval-test/0-0", score=0.0)])
    made.finished()
    return made


@pytest.fixture
def episode() -> Callable[..., Episode]:
    """Makes an episode."""
    return make_episode


@pytest.fixture
def rows() -> tuple[Callable[..., dict[str, Any]], Callable[..., dict[str, Any]]]:
    """Makes rows of training steps and of evaluations."""
    return train_row, evaluation_row
