"""Comparisons: what is refused, what is frozen, what counts, and a shared warm start.

Runs are made by hand where it matters only what became of them: a run that has come to its end is kept, so
a comparison over such folders starts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from turnwise.envs.errors import UsageError
from turnwise.trainer.begin import begin_from, start_of, warm_up
from turnwise.trainer.compare.compare import run_comparison
from turnwise.trainer.compare.manifest import Manifest, freeze, plan_comparison
from turnwise.trainer.compare.results import Comparison
from turnwise.trainer.recipe import Recipe, built_in
from turnwise.trainer.run_folder import Summary, cpu_seconds
from turnwise.trainer.setup import prepare
from turnwise.trainer.tracker import Row
from turnwise.trainer.train import train

Make = Callable[..., Recipe]


@pytest.fixture
def make(guess: ModuleType) -> Make:
    """A recipe of the guessing game by its name."""
    return lambda name, **changes: guess.recipe(name=name, **changes)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("second", "plan", "parts"),
    [
        (None, {}, ("1 recipe", "two or more")),
        ({}, {"seeds": 0}, ("seeds=0", "1 to 1000")),
        ({}, {"first_seed": -1}, ("first_seed=-1",)),
        ({}, {"tune": {"optimizer.lr": [0.1]}}, ("optimizer.lr", "two values")),
        ({}, {"tune": {"optimizer.lr": [0.1, 0.1]}}, ("optimizer.lr", "each once")),
        ({}, {"tune": {"optimizer.rl": [0.1, 0.2]}}, ("'rl'", "recipe a", "lr")),
        ({}, {"tune": {"steps": [1, 2]}}, ("not comparable", "steps is 2 and 1")),
        ({}, {"tune": {"optimizer.lr": [0.1, 0.2]}, "tune_seeds": 0}, ("tune_seeds=0",)),
        ({"name": "a"}, {}, ("two recipes", "'a'")),
        ({"env": "test/guess?numbers=3"}, {}, ("a and b", "env.options.numbers is 2 and 3")),
        ({"evaluate.tasks": 8}, {}, ("a and b", "evaluate.tasks is 16 and 8")),
        ({"evaluate.split": "train"}, {}, ('evaluate.split is "validation" and "train"',)),
        ({"steps": 3}, {}, ("steps is 2 and 3",)),
        ({"rollout.group": 2}, {}, ("rollout.group is 4 and 2",)),
        ({"seed": 4}, {}, ("recipe b", "seed=4")),
        ({"evaluate.stop_at": 0.9}, {}, ("recipe b", "evaluate.stop_at=0.9", "null")),
    ],
)
def test_what_is_not_comparable_is_refused(
    make: Make, second: dict[str, Any] | None, plan: dict[str, Any], parts: tuple[str, ...]
) -> None:
    recipes = [make("a")] + ([] if second is None else [make("b").override(**second)])
    with pytest.raises(UsageError) as error:
        plan_comparison(recipes, **({"seeds": 2} | plan))
    assert [part for part in parts if part not in str(error.value)] == []


@pytest.mark.parametrize(
    ("changes", "plan", "part"),
    [
        ({}, {"seeds": 3}, "seeds = [0, 1], not [0, 1, 2]"),
        ({"optimizer.lr": 0.25}, {}, "recipes.b.optimizer.lr = 0.005, not 0.25"),
        ({"name": "c"}, {}, 'recipe names = ["a", "b"], not ["a", "c"]'),
        ({}, {"tune": {"optimizer.lr": [1, 2]}}, "tuning.grid.optimizer.lr = null, not [1, 2]"),
    ],
)
def test_another_comparison_in_the_same_folder_is_refused(
    make: Make, tmp_path: Path, changes: dict[str, Any], plan: dict[str, Any], part: str
) -> None:
    folder = tmp_path / "c"
    freeze(folder, plan_comparison([make("a"), make("b")], seeds=2, command="one"))
    freeze(folder, plan_comparison([make("a"), make("b")], seeds=2, command="in other words"))
    other = plan_comparison([make("a"), make("b").override(**changes)], **({"seeds": 2} | plan))
    before = (folder / "manifest.json").read_text()
    with pytest.raises(UsageError, match="was begun with") as error:
        freeze(folder, other)
    assert part in str(error.value)
    assert (folder / "manifest.json").read_text() == before


def test_a_folder_of_something_else_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no comparison"):
        freeze(tmp_path, plan_comparison([make("a"), make("b")], seeds=1))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_manifest_tells_everything(make: Make, tmp_path: Path) -> None:
    manifest = plan_comparison([make("a"), make("b", steps=2)], seeds=2, first_seed=5, command="turnwise …")
    freeze(tmp_path / "c", manifest)
    told = json.loads((tmp_path / "c/manifest.json").read_text())
    assert told["seeds"] == [5, 6]
    assert told["recipes"][1] == make("b").model_dump(mode="json")
    hashes = {split: prepare(make("a")).tasks(split).hash for split in ("validation", "test")}
    assert {told[s]["split"]: told[s]["task_set_hash"] for s in ("validation", "test")} == hashes
    assert told["tuning"] == {"grid": {}, "seeds": [], "chosen_by": "curve_mean"}
    assert set(told["metrics"]) == {"held_out_success", "curve_mean"}


# ---------------------------------------------------------------- what counts


class Heard:
    """Writes down which runs ended, and lets none start."""

    def __init__(self) -> None:
        self.over: list[str] = []

    def started(self, job: Any) -> None:
        raise AssertionError(f"{job.folder} was not kept")

    def phase(self, job: Any, name: str, done: int, total: int) -> None: ...

    def row(self, job: Any, row: Row) -> None: ...

    def ended(self, job: Any, failure: str | None) -> None:
        self.over.append(f"{job.folder.parent.name}/{job.folder.name}")


def settle(folder: Path, successes: list[float], held_out: float | None, stopped: str = "finished") -> None:
    """A run that has come to its end, evaluated before the first and after every second step."""
    folder.mkdir(parents=True)
    rows: list[Mapping[str, Any]] = []
    for i, success in enumerate(successes):
        head = {"step": 2 * i, "cpu_seconds": 10.0 + i}
        rows += [{"kind": "train", "episodes": 64 * i} | head] if i else []
        rows += [{"kind": "eval", "success": success, "completion": 0.5} | head]
    rows.append({"kind": "final", "step": 2 * len(successes), "cpu_seconds": 20.0, "completion": 0.75})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = Summary(
        recipe="by hand",
        env="test/guess",
        seed=0,
        steps=2,
        episodes=64,
        held_out_success=held_out,
        interval=None if held_out is None else (0.0, 1.0),
        task_set_hash="0" * 12,
        cpu_seconds=20.0,
        wall_seconds=30.0,
        peak_rss_mb=1.0,
        stopped=stopped,
    )
    (folder / "summary.json").write_text(summary.model_dump_json())


def outcome(manifest: Manifest, folder: Path) -> Comparison:
    """The result where every run was settled before."""
    published: list[Comparison] = []
    result = run_comparison(manifest, folder, jobs=1, listener=Heard(), publish=published.append)
    assert published == [result]
    assert Comparison.model_validate_json((folder / "compare.json").read_text()) == result
    return result


def cold(make: Make, *names: str) -> list[Recipe]:
    """Recipes without a warm start."""
    return [make(name, warm_start=None) for name in names]


def test_means_and_paired_differences_by_hand(make: Make, tmp_path: Path) -> None:
    a, b = ([0.2, 0.4], 0.5), ([0.3, 0.5], 0.6)
    settle(tmp_path / "runs/a/seed-0", *a)
    settle(tmp_path / "runs/a/seed-1", [0.4, 0.6], 0.7)
    settle(tmp_path / "runs/b/seed-0", *b)
    settle(tmp_path / "runs/b/seed-1", [0.7, 0.9], 1.0)
    manifest = plan_comparison(cold(make, "a", "b"), seeds=2)
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    result = outcome(manifest, tmp_path)
    first = result.arms[0]
    assert first.runs[0].curve_mean == pytest.approx(0.3)
    points = [(p.step, p.episodes, p.cpu_seconds, p.success, p.completion) for p in first.runs[0].curve]
    assert points == [(0, 0, 10.0, 0.2, 0.5), (2, 64, 11.0, 0.4, 0.5)]
    assert first.held_out_success is not None
    assert first.held_out_success.mean == pytest.approx(0.6)
    assert first.held_out_completion is not None
    assert first.held_out_completion.mean == 0.75
    (pair,) = result.pairs
    assert (pair.first, pair.second, pair.seeds, pair.left_out) == ("b", "a", (0, 1), 0)
    assert pair.held_out_success.differences == pytest.approx((0.1, 0.3))
    assert pair.held_out_success.estimate is not None
    half = 12.7062 * 0.1414214 / 2**0.5
    assert pair.held_out_success.estimate.low == pytest.approx(0.2 - half, rel=1e-4)
    assert pair.held_out_success.estimate.high == pytest.approx(0.2 + half, rel=1e-4)
    assert pair.curve_mean.differences == pytest.approx((0.1, 0.3))


def test_a_run_that_did_not_finish_is_listed_and_its_pair_left_out(make: Make, tmp_path: Path) -> None:
    settle(tmp_path / "runs/a/seed-0", [0.2], 0.5)
    settle(tmp_path / "runs/a/seed-1", [0.2], 0.3, stopped="the gap grew")
    settle(tmp_path / "runs/a/seed-2", [0.2], None)
    for seed in range(3):
        settle(tmp_path / f"runs/b/seed-{seed}", [0.4], 0.6 + 0.1 * seed)
    manifest = plan_comparison(cold(make, "a", "b"), seeds=3)
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    result = outcome(manifest, tmp_path)
    assert [(name, run.seed, run.stopped) for name, run in result.left_out] == [
        ("a", 1, "the gap grew"),
        ("a", 2, "no held-out episode could be scored"),
    ]
    (pair,) = result.pairs
    assert (pair.seeds, pair.left_out) == ((0,), 2)
    assert pair.held_out_success.differences == pytest.approx((0.1,))
    means = [
        arm.held_out_success and (arm.held_out_success.n, arm.held_out_success.mean) for arm in result.arms
    ]
    assert means == [(1, 0.5), (3, pytest.approx(0.7))]


def test_tuning_chooses_by_the_curve_for_each_recipe(make: Make, tmp_path: Path) -> None:
    curves = {"a": ([0.1, 0.5], [0.4, 0.4]), "b": ([0.9, 0.9], [0.1, 0.1])}
    for name, trials in curves.items():
        for number, curve in enumerate(trials, start=1):
            for seed in (1000, 1001):
                settle(tmp_path / f"tuning/{name}/trial-{number}/seed-{seed}", curve, 1.0 / number)
        settle(tmp_path / f"runs/{name}/seed-0", [0.5], 0.5)
    manifest = plan_comparison(cold(make, "a", "b"), seeds=1, tune={"optimizer.lr": [0.1, 0.2]})
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    result = outcome(manifest, tmp_path)
    assert [arm.chosen for arm in result.arms] == [{"optimizer.lr": 0.2}, {"optimizer.lr": 0.1}]
    assert [t.score for t in result.trials] == pytest.approx([0.3, 0.4, 0.9, 0.1])


def test_a_trial_that_did_not_finish_is_not_chosen(make: Make, tmp_path: Path) -> None:
    for name in ("a", "b"):
        settle(tmp_path / f"tuning/{name}/trial-1/seed-1000", [0.9], 0.9, stopped="diverged")
        reason = "finished" if name == "a" else "diverged too"
        settle(tmp_path / f"tuning/{name}/trial-2/seed-1000", [0.2], 0.2, stopped=reason)
    settle(tmp_path / "runs/a/seed-0", [0.5], 0.5)
    manifest = plan_comparison(cold(make, "a", "b"), seeds=1, tune={"optimizer.lr": [0.1, 0.2]}, tune_seeds=1)
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    result = outcome(manifest, tmp_path)
    assert result.arms[0].chosen == {"optimizer.lr": 0.2}
    assert [run.stopped for run in result.arms[1].runs] == ["no tuning trial finished with every seed"]


# ---------------------------------------------------------------- the warm start


class Quiet:
    """Takes rows and says nothing."""

    def log(self, row: Row) -> None: ...

    def close(self) -> None: ...


def learned(folder: Path) -> list[dict[str, Any]]:
    """Metrics, apart from what depends on the machine and on where a process began."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    times = ("wall_seconds", "cpu_seconds", "seconds", "tokens_per_second", "versions")
    return [
        {name: value for name, value in row.items() if name not in times}
        for row in rows
        if row["kind"] not in ("start", "resume")
    ]


def test_the_quickstart_recipes_have_one_warm_start_but_for_its_gate() -> None:
    """Whatever their credit, scorers, loss and guards are."""
    gate = {"warm_start.gate": 0.05, "warm_start.check_every": 10}
    recipes = [Recipe.load(name).override(**gate) for name in built_in() if name.startswith("quickstart")]
    starts = [start_of(recipe) for recipe in recipes]
    assert len(starts) >= 5
    assert all(start == starts[0] for start in starts)


async def test_a_run_from_a_shared_warm_start_is_the_run_it_would_have_been(
    make: Make, tmp_path: Path
) -> None:
    """Another learning rate and other credit than the warm start's folder was made with."""
    shared = make("a", deterministic=True, seed=3)
    own = make("b", deterministic=True, seed=3, credit=["outcome", "rloo"]).override(**{"optimizer.lr": 0.02})
    await warm_up(shared, run=tmp_path / "warm", tracker=Quiet())
    begin_from(tmp_path / "warm", tmp_path / "copied", own)
    began = cpu_seconds()
    copied = await train(own, run=tmp_path / "copied", resume=True)
    spent = cpu_seconds() - began
    alone = await train(own, run=tmp_path / "alone")
    assert learned(copied.folder) == learned(alone.folder)
    assert copied.summary.held_out_success == alone.summary.held_out_success
    warm = json.loads((tmp_path / "warm/checkpoints/000000/progress.json").read_text())
    rows = [json.loads(line) for line in (copied.folder / "metrics.jsonl").read_text().splitlines()]
    resumed = next(row for row in rows if row["kind"] == "resume")
    assert 0 <= resumed["cpu_seconds"] - warm["cpu_seconds"] <= spent
    assert copied.summary.cpu_seconds > warm["cpu_seconds"] > 0


async def test_a_warm_start_that_would_have_been_another_is_refused(make: Make, tmp_path: Path) -> None:
    hasty = make("a").override(**{"warm_start.gate": 0.0})
    await warm_up(hasty, run=tmp_path / "warm", tracker=Quiet())
    with pytest.raises(UsageError, match="another warm_start"):
        begin_from(tmp_path / "warm", tmp_path / "b", make("b"))
    with pytest.raises(UsageError, match="another seed"):
        begin_from(tmp_path / "warm", tmp_path / "b", hasty.override(seed=1))
    assert not (tmp_path / "b").exists()
