"""What goes wrong in a run: the machine, the numbers, the disk, the user's Ctrl-C; and how it ends then."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from turnwise.agents.evaluate import evaluate
from turnwise.agents.store import read_episodes
from turnwise.envs.errors import UsageError
from turnwise.trainer.stage import credit
from turnwise.trainer.table import TurnTable
from turnwise.trainer.tracker import Row
from turnwise.trainer.train import train


def rows(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if not kinds or row["kind"] in kinds]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint."""
    newest = (folder / "checkpoints" / "latest").read_text()
    return load_file(folder / "checkpoints" / newest / "model" / "model.safetensors")


# ---------------------------------------------------------------- failures of the machine


async def test_failed_episodes_are_excluded_and_counted(guess: ModuleType, tmp_path: Path) -> None:
    recipe = guess.recipe(env="test/guess?failing=0.3", steps=3)
    run = await train(recipe, run=tmp_path / "a")
    assert run.summary.stopped == "finished"
    failed = 0
    for step, row in enumerate(rows(run.folder, "train"), start=1):
        episodes = list(read_episodes(run.folder / f"episodes/step-{step:06d}.jsonl"))
        bad = [e for e in episodes if e.end == "infra_error"]
        failed += len(bad)
        assert row["excluded"] == ({"infra_error": len(bad)} if bad else {})
        assert all(e.score is None and e.error and e.retries == 1 for e in bad)
        scored = [e for e in episodes if e.score is not None]
        assert row["success"] == np.mean([e.score for e in scored]), "a failure is not a score of 0"
        credited = (run.folder / f"credit/step-{step:06d}.jsonl").read_text().splitlines()
        assert [json.loads(line)["episode_id"] for line in credited] == [e.episode_id for e in scored]
    assert failed > 0


async def test_too_many_failures_stop_the_run(guess: ModuleType, tmp_path: Path) -> None:
    recipe = guess.recipe(env="test/guess?failing=0.3", guards={"excluded": 0.02})
    run = await train(recipe, run=tmp_path / "a")
    assert "(guards.excluded is 2%): SandboxDied: the machine failed" in run.summary.stopped
    assert run.summary.steps == 0
    assert rows(run.folder, "stop")[0]["reason"] == run.summary.stopped
    assert rows(run.folder, "final")
    assert run.summary.held_out_success is not None


async def test_a_warm_start_that_nothing_can_be_sampled_for_is_stopped(
    guess: ModuleType, tmp_path: Path
) -> None:
    """No episode of the gate's look could be played: that is not a success of 0."""
    run = await train(guess.recipe(env="test/guess?failing_split=validation"), run=tmp_path / "a")
    assert run.summary.stopped.startswith("100% of the episodes failed")
    assert not rows(run.folder, "warm_start", "train")


async def test_demonstrations_that_cannot_be_played_end_the_run(guess: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no demonstration .* could be played: SandboxDied: the machine"):
        await train(guess.recipe(env="test/guess?failing_split=train"), run=tmp_path / "a")


async def test_a_result_that_nothing_is_known_of_is_none(guess: ModuleType, tmp_path: Path) -> None:
    run = await train(guess.recipe(env="test/guess?failing_split=test"), run=tmp_path / "a")
    assert (run.summary.stopped, run.summary.steps) == ("finished", 2)
    assert run.summary.held_out_success is None
    assert run.summary.interval is None
    (final,) = rows(run.folder, "final")
    assert final["excluded"] == 1.0
    assert not {"success", "low", "high", "milestones"} & set(final)


# ---------------------------------------------------------------- failures of training


@pytest.mark.usefixtures("fresh_registry")
async def test_a_diverging_step_is_not_taken(guess: ModuleType, tmp_path: Path) -> None:
    @credit("explode", scope="turn", needs=["reward"], provides=["advantage"])
    def explode(t: TurnTable) -> dict[str, np.ndarray]:
        return {"advantage": (t.reward - 0.5) * 1e30}

    run = await train(guess.recipe(credit=["explode"]), run=tmp_path / "a")
    assert "gradient norm inf: lower optimizer.lr or check the rewards" in run.summary.stopped
    assert (run.summary.steps, run.summary.episodes) == (0, 0)
    assert rows(run.folder, "stop")[0]["reason"] == run.summary.stopped
    before, final = rows(run.folder, "eval")[0], rows(run.folder, "final")[0]
    assert (before["step"], final["step"]) == (0, 0)
    assert all(torch.isfinite(tensor).all() for tensor in weights(run.folder).values())
    again = await evaluate("test/guess", run.folder, split="validation", tasks=16)
    assert again.success == before["success"]


async def test_a_diverging_warm_start_is_stopped(guess: ModuleType, tmp_path: Path) -> None:
    run = await train(guess.recipe(warm_start={"lr": 1e30}), run=tmp_path / "a")
    assert run.summary.stopped.endswith("lower warm_start.lr")
    assert not rows(run.folder, "warm_start", "train")
    assert run.summary.held_out_success == 0.0


async def test_weights_out_of_step_stop_the_run(guess: ModuleType, tmp_path: Path) -> None:
    run = await train(guess.recipe(guards={"logprob_gap": 1e-12}), run=tmp_path / "a")
    assert "guards.logprob_gap is 1e-12" in run.summary.stopped
    assert run.summary.steps == 0


async def test_a_missed_gate_stops_the_run_also_when_it_is_resumed(guess: ModuleType, tmp_path: Path) -> None:
    recipe = guess.recipe(warm_start={"gate": 1.0, "max_steps": 25})
    run = await train(recipe, run=tmp_path / "a")
    looks = rows(run.folder, "warm_start")
    assert [row["round"] for row in looks] == [1, 2, 3]
    assert run.summary.stopped.startswith(
        f"warm start: sampled success is {looks[-1]['success']:.1%} after 25 steps, the gate is 100.0%; raise"
    )
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == [
        "latest",
        "warm-0002",
        "warm-0003",
    ]
    again = await train(recipe, run=tmp_path / "a", resume=True)
    assert again.summary.stopped == run.summary.stopped
    assert rows(run.folder, "warm_start") == looks
    assert len(rows(run.folder, "final")) == 1


@pytest.mark.usefixtures("fresh_registry")
async def test_a_falling_completion_rate_is_a_row(guess: ModuleType, tmp_path: Path) -> None:
    @credit("endless", scope="turn", needs=["submitted"], provides=["advantage"])
    def endless(t: TurnTable) -> dict[str, np.ndarray]:
        return {"advantage": np.where(t.submitted, -1.0, 0.2)}

    recipe = guess.recipe(
        credit=["endless"], steps=8, warm_start={"gate": 0.1}, guards={"completion_drop": 0.2}
    )
    run = await train(recipe, run=tmp_path / "a")
    assert run.summary.stopped == "finished"
    warnings = rows(run.folder, "warning")
    assert warnings
    assert all(row["reason"].startswith("completion fell to") for row in warnings)


async def test_a_policy_that_writes_garbage_is_trained_on(guess: ModuleType, tmp_path: Path) -> None:
    """An untrained model: its turns are recorded as invalid, and the run goes on."""
    run = await train(guess.recipe(warm_start=None), run=tmp_path / "a")
    assert (run.summary.stopped, run.summary.steps) == ("finished", 2)
    for row in rows(run.folder, "train"):
        assert row["valid"] < 0.1
        assert row["excluded"] == {}
    episodes = list(read_episodes(run.folder / "episodes/step-000001.jsonl"))
    turns = [turn for episode in episodes for turn in episode.turns]
    invalid = [turn for turn in turns if not turn.record.valid]
    assert len(invalid) > 0.9 * len(turns)
    assert all(turn.action.kind == "invalid" or turn.observation.text for turn in invalid)
    assert {e.end for e in episodes} <= {"turn_limit", "context_limit", "submitted"}


# ---------------------------------------------------------------- interruptions


class Interrupter:
    """A watcher and tracker that does something at a moment of a run, once."""

    def __init__(self, moment: tuple[str, int], what: Any) -> None:
        self.moment, self.what = moment, what
        self.closed = 0

    def phase(self, name: str, done: int, total: int) -> None:
        if (name, done) == self.moment and self.what is not None:
            what, self.what = self.what, None
            what()

    def log(self, row: Row) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("moment", [("demonstrations", 5), ("warm start", 3), ("rollout", 9)])
async def test_a_cancelled_run_lets_go_and_can_be_resumed(
    guess: ModuleType, tmp_path: Path, moment: tuple[str, int]
) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    watcher = Interrupter(moment, lambda: loop.call_soon_threadsafe(task.cancel))
    with pytest.raises(asyncio.CancelledError):
        await train(guess.recipe(), run=tmp_path / "a", trackers=[watcher], watcher=watcher)
    task.uncancel()
    assert "turnwise-engine" not in {thread.name for thread in threading.enumerate()}
    assert watcher.closed == (moment[0] != "demonstrations")
    assert not (tmp_path / "a" / "summary.json").exists()
    run = await train(guess.recipe(), run=tmp_path / "a", resume=True)
    assert (run.summary.steps, run.summary.stopped) == (2, "finished")


@pytest.mark.parametrize(
    ("size", "file"),
    [
        (20_000, "episodes/step-000001.jsonl"),
        (100_000, "checkpoints/000001"),
    ],
)
async def test_a_full_disk_ends_the_run_which_can_be_resumed(
    guess: ModuleType, tmp_path: Path, disk: Any, size: int, file: str
) -> None:
    """The error names what could not be written; the last checkpoint stands, nothing half-written stays."""
    recipe = guess.recipe(steps=3, deterministic=True)
    whole = await train(recipe, run=tmp_path / "whole")

    folder = tmp_path / "a"
    filling = Interrupter(("rollout", 1), lambda: disk(size))
    with pytest.raises(OSError, match=f"File too large: '{folder / file}'"):
        await train(recipe, run=folder, trackers=[filling], watcher=filling)
    disk(math.inf)
    assert filling.closed == 1
    assert (folder / "checkpoints" / "latest").read_text() == "000000"
    assert not list(folder.rglob(".*"))
    run = await train(recipe, run=folder, resume=True)
    assert run.summary.held_out_success == whole.summary.held_out_success
    for name, tensor in weights(whole.folder).items():
        assert torch.equal(tensor, weights(folder)[name])
