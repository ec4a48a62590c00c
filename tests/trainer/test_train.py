"""A whole run: the folder it leaves, that it learns, and what it refuses before anything starts."""

from __future__ import annotations

import asyncio
import json
import os
import platform
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from turnwise.agents.evaluate import evaluate
from turnwise.agents.store import episode_files, read_episodes
from turnwise.envs.errors import UsageError
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.run_folder import Run, Summary
from turnwise.trainer.stage import credit
from turnwise.trainer.table import TurnTable
from turnwise.trainer.tracker import Row
from turnwise.trainer.train import train

ALWAYS = {"kind", "step", "wall_seconds", "cpu_seconds"}
RATES = {"success", "completion", "turns", "valid", "milestones"}
UPDATE = {"loss", "grad_norm", "clipped", "kl", "gap", "advantage_std", "groups_mixed"}
SPEED = {"episodes", "tokens", "tokens_per_second", "seconds", "trained_tokens", "excluded"}
EVAL = {"split", "tasks", "low", "high"}
FOUR_STEPS = {
    "steps": 4,
    "credit": ["milestones", "returns", "turn_baseline"],
    "guards": {"completion_drop": 1.0},
}


class Recorder:
    """Remembers what a tracker and a watcher are told."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.phases: list[tuple[str, int, int]] = []
        self.closed = 0

    def log(self, row: Row) -> None:
        self.rows.append(row)

    def close(self) -> None:
        self.closed += 1

    def phase(self, name: str, done: int, total: int) -> None:
        self.phases.append((name, done, total))


def rows(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if not kinds or row["kind"] in kinds]


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


# ---------------------------------------------------------------- a run that goes well


@pytest.fixture(scope="module")
def heard() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def finished(guess: ModuleType, tmp_path_factory: pytest.TempPathFactory, heard: Recorder) -> Run:
    """A run of four steps."""
    recipe = guess.recipe(**FOUR_STEPS)
    folder = tmp_path_factory.mktemp("runs") / "deep" / "a"
    return asyncio.run(train(recipe, run=folder, trackers=[heard], watcher=heard))


def test_the_folder_has_its_files(finished: Run) -> None:
    files = {str(p.relative_to(finished.folder)) for p in finished.folder.rglob("*") if p.is_file()}
    kept = {name for name in files if not name.startswith("checkpoints/")}
    assert kept == {
        *("config.yaml", "metrics.jsonl", "summary.json", "demonstrations.jsonl"),
        *(f"episodes/step-{n:06d}.jsonl" for n in (1, 2, 3, 4)),
        *(f"credit/step-{n:06d}.jsonl" for n in (1, 2, 3, 4)),
        *(f"episodes/eval-{n:06d}.jsonl" for n in (0, 2, 4)),
        "episodes/final-000004.jsonl",
    }
    assert checkpoints(finished.folder) == ["000000", "000003", "000004", "latest"]
    assert (finished.folder / "checkpoints" / "latest").read_text() == "000004"


def test_the_recipe_is_kept_as_resolved(finished: Run, guess: ModuleType) -> None:
    assert Recipe.load(finished.folder / "config.yaml") == guess.recipe(**FOUR_STEPS)


def test_rows_come_in_order_with_all_their_fields(finished: Run) -> None:
    found = rows(finished.folder)
    kinds = [(row["kind"], row["step"]) for row in found if row["kind"] != "warm_start"]
    assert kinds == [
        *(("start", 0), ("eval", 0), ("train", 1), ("train", 2), ("eval", 2)),
        *(("train", 3), ("train", 4), ("eval", 4), ("final", 4)),
    ]
    for row in found:
        assert set(row) >= ALWAYS
        match row["kind"]:
            case "train":
                assert set(row) >= RATES | UPDATE | SPEED
                assert set(row["seconds"]) == {"rollout", "credit", "update"}
                assert set(row["milestones"]) == {"tried", "found"}
                assert row["gap"] < 1e-4
            case "eval" | "final":
                assert set(row) >= RATES | EVAL
                assert row["low"] <= row["success"] <= row["high"]
                assert row["split"] == ("test" if row["kind"] == "final" else "validation")
            case "warm_start":
                assert set(row) >= {"round", "loss", "success"}
    warm = rows(finished.folder, "warm_start")
    assert [row["round"] for row in warm] == list(range(1, len(warm) + 1))
    assert [row["success"] >= 0.05 for row in warm] == [False] * (len(warm) - 1) + [True]
    for clock in ("wall_seconds", "cpu_seconds"):
        times = [row[clock] for row in found]
        assert times == sorted(times)
        assert times[0] > 0, "the demonstrations count"


def test_every_episode_is_kept_with_its_credit(finished: Run) -> None:
    files = episode_files(finished.folder)
    assert [len(list(read_episodes(file))) for file in files] == [16, 32, 32, 16, 32, 32, 16, 16]
    for step, row in enumerate(rows(finished.folder, "train"), start=1):
        episodes = list(read_episodes(finished.folder / f"episodes/step-{step:06d}.jsonl"))
        assert row["success"] == np.mean([e.score for e in episodes])
        assert row["tokens"] == sum(e.sampled_tokens for e in episodes)
        assert row["episodes"] == 32 * step
        assert {name: count for name, count in Counter(e.group_id for e in episodes).items()} == {
            f"train-{step}/{g}": 4 for g in range(8)
        }
        lines = (finished.folder / f"credit/step-{step:06d}.jsonl").read_text().splitlines()
        for line, episode in zip(lines, episodes, strict=True):
            credited = json.loads(line)
            assert credited["episode_id"] == episode.episode_id
            assert set(credited["columns"]) == {"step_reward", "return", "advantage"}
            for column in credited["columns"].values():
                assert len(column) == len(episode.turns)
            paid = [0.5 * len(turn.record.milestones) for turn in episode.turns]
            paid[-1] += episode.score or 0.0
            assert credited["columns"]["step_reward"] == pytest.approx(paid)


def test_the_summary_says_what_came_of_it(finished: Run) -> None:
    text = (finished.folder / "summary.json").read_text()
    summary = Summary.model_validate_json(text)
    assert summary == finished.summary
    (final,) = rows(finished.folder, "final")
    episodes = list(read_episodes(finished.folder / "episodes/final-000004.jsonl"))
    assert summary.held_out_success == final["success"] == np.mean([e.score for e in episodes])
    assert summary.interval == (final["low"], final["high"])
    assert (summary.recipe, summary.env, summary.seed) == ("guess", "test/guess", 0)
    assert (summary.steps, summary.episodes, summary.stopped) == (4, 128, "finished")
    assert len(summary.task_set_hash) == 12
    assert summary.wall_seconds > final["wall_seconds"]
    assert summary.cpu_seconds >= final["cpu_seconds"]
    assert summary.peak_rss_mb > 50


async def test_a_run_is_a_policy(finished: Run) -> None:
    """Evaluated afresh from its newest checkpoint it does what it did at its end."""
    result = await evaluate("test/guess", finished.folder, split="test", tasks=16)
    assert result.success == finished.summary.held_out_success


def test_trackers_and_watcher_hear_of_everything(finished: Run, heard: Recorder) -> None:
    assert [dict(row) for row in heard.rows] == rows(finished.folder)
    assert heard.closed == 1
    assert [n for name, n, _ in heard.phases if name == "demonstrations"] == list(range(1, 65))
    assert [(n, total) for name, n, total in heard.phases if name == "rollout"] == [
        (n, 32) for _ in range(4) for n in range(1, 33)
    ]
    assert {name for name, _, _ in heard.phases} >= {"demonstrations", "warm start", "evaluate", "rollout"}


async def test_a_model_from_a_folder_needs_no_demonstrations(
    finished: Run, guess: ModuleType, tmp_path: Path
) -> None:
    path = str(finished.folder / "checkpoints" / "000004" / "model")
    recipe = guess.recipe(model={"kind": "folder", "path": path}, warm_start=None, steps=1)
    await train(recipe, run=tmp_path / "b")
    assert not (tmp_path / "b" / "demonstrations.jsonl").exists()
    (first, _) = rows(tmp_path / "b", "eval")
    assert first["success"] == rows(finished.folder, "eval")[-1]["success"]


@pytest.mark.parametrize("seed", [0, 1])
async def test_success_rises(guess: ModuleType, tmp_path: Path, seed: int) -> None:
    """One number to guess: from what an imperfect demonstrator taught to nearly always."""
    recipe = guess.recipe(
        env="test/guess?numbers=1", steps=14, seed=seed, evaluate={"every": 14, "tasks": 64}
    )
    run = await train(recipe, run=tmp_path / "a")
    before, after = (row["success"] for row in rows(run.folder, "eval"))
    assert before < 0.6
    assert after > before + 0.25
    assert run.summary.held_out_success is not None
    assert run.summary.held_out_success > before + 0.2


@pytest.mark.usefixtures("fresh_registry")
async def test_a_stages_state_goes_from_step_to_step(guess: ModuleType, tmp_path: Path) -> None:
    @credit("counting", scope="batch", needs=["reward"], provides=["advantage", "value"])
    def counting(t: TurnTable, state: dict[str, int]) -> Any:
        count = state.get("steps", 0) + 1
        return {"advantage": t.reward, "value": np.full(len(t), count)}, {"steps": count}

    run = await train(guess.recipe(credit=["counting"], steps=3), run=tmp_path / "a")
    for step in (1, 2, 3):
        for line in (run.folder / f"credit/step-{step:06d}.jsonl").read_text().splitlines():
            assert set(json.loads(line)["columns"]["value"]) == {step}
    progress = json.loads((run.folder / "checkpoints/000003/progress.json").read_text())
    assert progress["stages"] == {"counting": {"steps": 3}}


async def test_training_ends_when_it_is_good_enough(guess: ModuleType, tmp_path: Path) -> None:
    recipe = guess.recipe(steps=50, evaluate={"stop_at": 0.0})
    run = await train(recipe, run=tmp_path / "a")
    assert (run.summary.steps, run.summary.stopped) == (2, "finished")
    again = await train(recipe, run=tmp_path / "a", resume=True)
    assert again.summary.steps == 2


# ---------------------------------------------------------------- what is refused before anything starts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "test/gues"}, r"unknown environment 'test/gues'; did you mean 'test/guess'"),
        ({"env": "test/guess?number=2"}, r"unknown field 'number'; did you mean 'numbers'"),
        ({"env": "test/guess?numbers=0"}, r"numbers = \"0\""),
        ({"credit": ["grpo"], "env": "tools/configdesk?level=9"}, r"level"),
        ({"credit": ["turn_baseline"]}, r"stage 'turn_baseline' needs column 'return'"),
        ({"credit": ["outcome"]}, r"no stage provides 'advantage'"),
        ({"rollout.group": 1}, r"rollout\.group is 1"),
        ({"evaluate.tasks": 101}, r"evaluate\.tasks=101, but split 'validation' of test/guess has 100"),
        ({"evaluate.split": "tset"}, r"unknown evaluate\.split 'tset'; did you mean 'test'"),
        ({"device": "cuda"}, r"device 'cuda' is absent"),
        ({"device": "gpu"}, r"unknown device 'gpu'"),
        ({"model": {"kind": "folder", "path": "/absent"}}, r"model\.path='/absent' has no config\.json"),
        ({"model.heads": 3, "model.kv_heads": 2}, r"kv_heads must divide heads"),
        ({"model.hidden_size": 30}, r"a head's size, hidden_size / heads, must be even"),
    ],
)
async def test_refused_and_no_folder_made(
    guess: ModuleType, tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match=message) as caught:
        await train(guess.recipe(**changes), run=tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


async def test_a_backend_that_does_not_run_here_is_refused(
    guess: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Plan9")
    recipe = guess.recipe(env="tools/configdesk", backend="namespaces")
    with pytest.raises(UsageError, match=r"backend 'namespaces' does not run: .* this is Plan9"):
        await train(recipe, run=tmp_path / "a")
    assert os.listdir(tmp_path) == []


async def test_an_existing_run_is_not_overwritten(finished: Run, guess: ModuleType) -> None:
    before = (finished.folder / "metrics.jsonl").read_bytes()
    with pytest.raises(UsageError, match=r"exists; add --resume to go on with it"):
        await train(guess.recipe(), run=finished.folder)
    assert (finished.folder / "metrics.jsonl").read_bytes() == before


async def test_a_folder_that_is_no_run_is_neither_begun_nor_resumed(
    guess: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        await train(guess.recipe(), run=tmp_path)
    with pytest.raises(UsageError, match=r"has no config\.yaml"):
        await train(guess.recipe(), run=tmp_path, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="exists"):
        await train(guess.recipe(), run=tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        await train(guess.recipe(), run=tmp_path / "file" / "a")
    assert sorted(os.listdir(tmp_path)) == ["file", "notes.txt"]


async def test_a_run_that_is_going_on_cannot_be_resumed_beside_it(guess: ModuleType, tmp_path: Path) -> None:
    recipe = guess.recipe()
    refused: list[UsageError] = []

    class Second(Recorder):
        def log(self, row: Row) -> None:
            super().log(row)
            if row["kind"] == "start":
                self.task = asyncio.create_task(self.resume())

        async def resume(self) -> None:
            try:
                await train(recipe, run=tmp_path / "a", resume=True)
            except UsageError as error:
                refused.append(error)

    run = await train(recipe, run=tmp_path / "a", trackers=[Second()])
    assert [str(error) for error in refused] == [
        f"run '{tmp_path / 'a'}' is going on in another process; wait for it, or end it"
    ]
    assert run.summary.stopped == "finished"
    assert not rows(run.folder, "resume")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("left", [[], [".config.tmp"]])
async def test_what_a_kill_left_before_the_run_began_is_no_run(
    guess: ModuleType, tmp_path: Path, resume: bool, left: list[str]
) -> None:
    for name in left:
        (tmp_path / name).write_text("name: gu")
    recipe = guess.recipe(steps=1)
    await train(recipe, env="test/guess?numbers=1", run=tmp_path, resume=resume)
    stored = Recipe.load(tmp_path / "config.yaml")
    assert stored == recipe.override(env="test/guess?numbers=1")
    assert not (tmp_path / ".config.tmp").exists()
