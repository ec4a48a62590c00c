"""Kill -9 at any moment: the run goes on as if nothing had been, to the last bit, and nothing is left behind.

Every attempt at a run is a process of its own, which kills itself at the moment that was asked for.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import pytest

from tests.processes import running
from tests.sandbox.conftest import overlays
from turnwise.trainer.recipe import Recipe

Attempt: TypeAlias = Callable[..., dict[str, Any]]

KILLED = -9
TIMES = {"wall_seconds", "cpu_seconds", "seconds", "tokens_per_second", "peak_rss_mb"}
VARYING = {*TIMES, "versions"}
"""What may differ between runs that are the same: times, and the count of weights since the process began."""


@contextmanager
def program(hash_seed: int) -> Iterator[Attempt]:
    """Begins runs or goes on with them, each in a new process; see guess.py."""
    command = [sys.executable, str(Path(__file__).with_name("guess.py"))]
    variables = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def attempt(run: Path, recipe: Recipe, name: str = "", number: int = 0) -> dict[str, Any]:
            """Dies at the moment of this number of this name, or of this number of any; or does not."""
            request = {"run": str(run), "recipe": recipe.model_dump(mode="json"), "die": [name, number]}
            print(json.dumps(request), file=process.stdin, flush=True)
            result: dict[str, Any] = {}
            while "status" not in result:
                line = process.stdout.readline()  # type: ignore[union-attr]
                assert line, "the program has ended"
                result |= json.loads(line)
            return result

        yield attempt
        process.stdin.close()


@pytest.fixture(scope="module")
def attempt() -> Iterator[Attempt]:
    with program(hash_seed=1) as one:
        yield one


@pytest.fixture(scope="module")
def recipe(guess: ModuleType) -> Recipe:
    """With a stage and scorers that keep state, several passes, and contexts that outgrow the engine's first
    cache."""
    critic, gae = ({"kind": kind, "of": "shaped_reward"} for kind in ("critic", "gae"))
    scale = {"kind": "scale", "into": "turn_advantage"}
    step_advantage = {"kind": "group_norm", "of": "implicit"}
    robust = {"kind": "doubly_robust", "of": "step_reward", "into": "robust"}
    all_three = {"kind": "fuse", "of": {"turn_advantage": 1.0, "step_advantage": 0.3, "robust": 0.5}}
    found: Recipe = guess.recipe(
        env="test/guess?talk=30",
        credit=["outcome", "shaping", critic, gae, scale, step_advantage, robust, all_three],
        scorers=[
            {"kind": "implicit", "beta": 1.0, "lr": 1e-3, "replay": 8, "minibatch": 4},
            {"kind": "critics", "replay": 8, "minibatch": 8},
        ],
        model={"context": 256},
        optimizer={"epochs": 2},
        steps=3,
        evaluate={"every": 2},
        deterministic=True,
    )
    return found


@pytest.fixture(scope="module")
def unbroken(recipe: Recipe, attempt: Attempt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    result = attempt(folder, recipe)
    assert result["status"] == 0
    (folder.parent / "passed.json").write_text(json.dumps(result["passed"]))
    return folder


def moments(unbroken: Path) -> list[str]:
    """What happened in the unbroken run, in order."""
    passed: list[str] = json.loads((unbroken.parent / "passed.json").read_text())
    return passed


def fixed(value: Any) -> Any:
    """Without what may differ."""
    match value:
        case dict():
            return {key: fixed(entry) for key, entry in value.items() if key not in VARYING}
        case list():
            return [fixed(entry) for entry in value]
        case _:
            return value


def lines(path: Path) -> list[Any]:
    return [fixed(json.loads(line)) for line in path.read_bytes().splitlines()]


def assert_same(run: Path, other: Path) -> None:
    """Two runs' folders hold the same, but for times and the rows of a start or a resume."""
    names = [
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        for folder in (run, other)
    ]
    assert names[0] == names[1]
    for name in names[0]:
        one, two = run / name, other / name
        if name == "metrics.jsonl":
            rows, others = (
                [row for row in lines(path) if row["kind"] not in ("start", "resume")] for path in (one, two)
            )
            assert rows == others
        elif one.suffix == ".jsonl":
            assert lines(one) == lines(two), name
        elif one.name in ("summary.json", "progress.json"):
            assert fixed(json.loads(one.read_text())) == fixed(json.loads(two.read_text()))
        elif one.suffix != ".pt" and one.name != "tokenizer_config.json":
            assert one.read_bytes() == two.read_bytes(), name


def test_the_same_seed_gives_the_same_run_in_another_process(
    recipe: Recipe, unbroken: Path, tmp_path: Path
) -> None:
    with program(hash_seed=2) as other:
        assert other(tmp_path / "a", recipe)["status"] == 0
    assert_same(tmp_path / "a", unbroken)
    trained = [row for row in lines(unbroken / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in trained] == [1, 2, 3]
    assert all(row["grad_norm"] > 0 and row["loss"] != 0 for row in trained), "something was learned"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("metrics.jsonl", '"round": 2', '"round": 3'),
        ("episodes/step-000002.jsonl", '"turn":1', '"turn":2'),
        ("checkpoints/000003/progress.json", '"step": 3', '"step": 4'),
        ("checkpoints/000003/model/config.json", "qwen3", "qwen4"),
    ],
)
def test_a_difference_is_seen(unbroken: Path, tmp_path: Path, name: str, old: str, new: str) -> None:
    shutil.copytree(unbroken, tmp_path / "a")
    assert_same(tmp_path / "a", unbroken)
    path = tmp_path / "a" / name
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "a", unbroken)


def test_a_run_killed_in_every_phase_ends_as_if_unbroken(
    recipe: Recipe, unbroken: Path, attempt: Attempt, tmp_path: Path
) -> None:
    """One run, that dies and goes on, at each of these in turn; numbers count from where it went on."""
    for name, number, _ in (
        ("demonstrations", 20, "before there are any"),
        ("start row", 1, "before the warm start"),
        ("warm start", 15, "in its second round"),
        ("warm_start row", 1, "with the gate passed and no checkpoint of it"),
        ("eval row", 1, "evaluated and at no step yet"),
        ("rollout", 9, "in step 1"),
        ("train row", 1, "with the row of step 1 and not its checkpoint"),
        ("update", 2, "in step 2"),
        ("sync", 1, "while it writes the episodes of step 2"),
        ("evaluate", 3, "after step 2"),
        ("sync", 8, "while it writes the checkpoint of step 2"),
        ("train row", 2, "with the row of step 3 and not its checkpoint"),
        ("final row", 1, "without a summary"),
        ("close", 1, "with a summary"),
    ):
        result = attempt(tmp_path / "a", recipe, name, number)
        assert (result["status"], result.get("killed")) == (KILLED, name)
    assert attempt(tmp_path / "a", recipe)["status"] == 0
    assert_same(tmp_path / "a", unbroken)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_killed_at_random_ends_as_if_unbroken(
    recipe: Recipe, unbroken: Path, attempt: Attempt, tmp_path: Path, seed: int
) -> None:
    rng, count, status = random.Random(seed), len(moments(unbroken)), KILLED
    for _ in range(3):
        if status == KILLED:
            status = attempt(tmp_path / "a", recipe, "", rng.randint(1, count))["status"]
    if status == KILLED:
        status = attempt(tmp_path / "a", recipe)["status"]
    assert status == 0
    assert_same(tmp_path / "a", unbroken)


def test_a_finished_run_that_is_resumed_stays_as_it_is(
    recipe: Recipe, unbroken: Path, attempt: Attempt, tmp_path: Path
) -> None:
    shutil.copytree(unbroken, tmp_path / "a")
    assert attempt(tmp_path / "a", recipe)["status"] == 0
    assert_same(tmp_path / "a", unbroken)
    for name in ("metrics.jsonl", "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (unbroken / name).read_bytes()


# ---------------------------------------------------------------- with sandboxes


def left(processes: list[list[int]], mounted: list[str]) -> list[str]:
    """What is still there of processes, each a pid and its start time, of their control groups, and of
    overlays but for those that were mounted before."""
    patterns = [f"{top}turnwise-{pid}-*" for pid, _ in processes for top in ("", "*/")]
    groups = [path for pattern in patterns for path in Path("/sys/fs/cgroup").glob(pattern)]
    alive = running((pid, started) for pid, started in processes)
    return [f"process {pid}" for pid, _ in alive] + [
        *map(str, groups),
        *(mount for mount in overlays() if mount not in mounted),
    ]


def test_killed_amid_sandboxes_it_leaves_nothing_and_goes_on(
    guess: ModuleType, attempt: Attempt, tmp_path: Path
) -> None:
    mounted = overlays()
    recipe = guess.recipe(
        env="tools/configdesk?level=1",
        model={"context": 512},
        warm_start={"demonstrations": 16, "gate": 0.0},
        rollout={"tasks": 4, "group": 2, "max_tokens": 12},
        evaluate={"tasks": 4},
        steps=1,
        deterministic=True,
    )
    assert attempt(tmp_path / "whole", recipe)["status"] == 0
    for name, number in (("demonstrations", 9), ("rollout", 3)):
        result = attempt(tmp_path / "a", recipe, name, number)
        assert (result["status"], result["killed"]) == (KILLED, name)
        assert len(result["below"]) >= 2, "there were sandboxes"
        until = time.monotonic() + 120
        while left(result["below"], mounted) and time.monotonic() < until:
            time.sleep(0.05)
        assert not left(result["below"], mounted)
    assert attempt(tmp_path / "a", recipe)["status"] == 0
    assert_same(tmp_path / "a", tmp_path / "whole")
