"""``turnwise rescore``: a run beside what another recipe would have made of it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from turnwise.agents.rollout import RolloutPlan, rollout
from turnwise.agents.scripted import imperfect
from turnwise.agents.store import episode_path, write_episodes
from turnwise.agents.trajectory import Episode
from turnwise.cli import run
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.trainer.columns import base_columns
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.run_folder import write_credit
from turnwise.trainer.table import TurnTable

ENV = EnvSpec(name="tools/configdesk")


async def play(label: str) -> list[Episode]:
    """Two groups of four, of a demonstrator that often errs."""
    async with LocalEnvs(backend="process", capacity=8) as envs:
        plan = RolloutPlan(ENV.make().task_set("train")[:2], 4, 1, label)
        return await rollout(envs, ENV, imperfect(0.8), plan)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, credited by its outcome."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    folder.mkdir()
    recipe, env = Recipe.load("quickstart-outcome"), ENV.make()
    (folder / "config.yaml").write_text(recipe.to_yaml())
    declared = env.milestone_names(), env.channels()
    for step in (1, 2):
        episodes = asyncio.run(play(f"train-{step}"))
        write_episodes(episode_path(folder, "step", step), episodes)
        table = TurnTable.from_episodes(episodes, *declared)
        write_credit(folder, step, recipe.pipeline(base_columns(*declared)).run(table, {}).table)
    return folder


def told(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command prints; it succeeds, without escapes, and nothing but a path is wider than 80."""
    assert run([*map(str, words)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert [line for line in out.splitlines() if len(line) > 80 and not line.startswith("As a page")] == []
    return out


def test_old_and_new_stand_side_by_side(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "rescore", recorded, "--recipe", "quickstart-gated", "--episode", "train-2/0-1")
    assert re.search(r"recorded +quickstart-outcome: outcome, grpo", out)
    assert re.search(r"anew +quickstart-gated: outcome_levels, gated, grpo", out)
    assert re.search(r"turns +\d+ of 16 episodes, steps 1 to 2", out)
    assert re.search(r"channel:validity +counts in \d+% of episodes", out)
    assert re.search(r"reached check passed +\d+( +[+-]\d\.\d\d){3}", out)
    side = out.partition("Side by side")[2]
    assert "train-2/0-1 · level-1/train/" in side
    assert re.search(r"^ 1  .* \+0\.00  \+0\.\d\d( +[+-]\d\.\d\d){2}", side, re.MULTILINE)


def test_one_step_and_the_episode_that_differs_most(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = told(capsys, "rescore", recorded, "--recipe", "quickstart-shaped", "--step", 2)
    assert "of 8 episodes, step 2" in out
    assert re.search(r"The episode that differs most\ntrain-2/", out)


def test_the_page_needs_nothing_else(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "rescore", recorded, "--recipe", "quickstart-gated")
    path = recorded / "rescore-quickstart-gated.html"
    assert f"As a page: {path}" in out
    page = path.read_text()
    assert "default-src 'none'" in page
    assert "quickstart-outcome under quickstart-gated" in page
    assert page.count("<details") == 6 + 1
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)


def test_the_same_recipe_agrees_with_itself(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, "rescore", recorded, "--recipe", "quickstart-outcome")
    assert re.search(r"correlation +\+1\.00", out)
    assert re.search(r"opposite sign +0% of turns *\none-sided +0% .* 0% from the new", out)


def test_a_recipes_name_is_no_path(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(Recipe.load("quickstart").override(name="../../out/<b>").to_yaml())
    told(capsys, "rescore", recorded, "--recipe", mine)
    assert "under ../../out/&lt;b&gt;</h1>" in (recorded / "rescore-..-..-out-b-.html").read_text()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("absent --recipe quickstart", ("'absent'",)),
        ("RUN", ("--recipe",)),
        ("RUN --recipe quickstrat", ("'quickstrat'", "did you mean 'quickstart'")),
        ("RUN --recipe absent.yaml", ("absent.yaml", "No such file")),
        ("RUN --recipe quickstart --step 9", ("no step 9", "1 to 2")),
        ("RUN --recipe quickstart --step two", ("--step", "'two'")),
        ("RUN --recipe quickstart --episode train-1/9-9", ("'train-1/9-9'",)),
        ("RUN --recipe quickstart --step 2 --episode train-1/0-0", ("'train-1/0-0'", "step 2")),
        ("RUN --recipe beauty.yaml", ("'channel:beauty'", "channel:validity", "channel:modified")),
    ],
)
def test_bad_input_is_one_line(
    recorded: Path,
    words: str,
    parts: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    credit = [{"kind": "gated", "rewards": {"channel:beauty": {}}}, "grpo"]
    Path("beauty.yaml").write_text(Recipe.load("quickstart").override(credit=credit).to_yaml())
    before = sorted(recorded.iterdir())
    assert run(["rescore", *words.replace("RUN", str(recorded)).split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"error: .*\n", shown.err)
    assert [part for part in parts if part not in shown.err] == []
    assert sorted(recorded.iterdir()) == before


def test_a_run_without_steps_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(Recipe.load("quickstart").to_yaml())
    assert run(["rescore", str(tmp_path), "--recipe", "quickstart"]) == 2
    assert "has no training steps to rescore" in capsys.readouterr().err


def test_torch_is_not_needed(recorded: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from turnwise.cli import run
assert run(["rescore", {str(recorded)!r}, "--recipe", "quickstart-shaped"]) == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
