"""The command line: what it shows, what it refuses in one line, and how it stops."""

from __future__ import annotations

import asyncio
import io
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from turnwise.agents.rollout import RolloutPlan, rollout
from turnwise.agents.scripted import scripted
from turnwise.agents.store import episode_path, write_episodes
from turnwise.agents.trajectory import Episode
from turnwise.cli import run
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.trainer.recipe import Recipe

DESK = "tools/configdesk"
ORACLE = ("--policy", "scripted:oracle")
NOOP = ("--policy", "scripted:noop")
PROCESS = ("--backend", "process")


async def play() -> list[Episode]:
    """Two episodes of the oracle."""
    env = EnvSpec(name=DESK)
    async with LocalEnvs(backend="process", capacity=2) as envs:
        plan = RolloutPlan(env.make().task_set("train")[:2], 1, 0, "train-1")
        return await rollout(envs, env, scripted("scripted:oracle"), plan)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one step of two recorded episodes."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    folder.mkdir()
    (folder / "config.yaml").write_text(Recipe.load("quickstart").to_yaml())
    episodes = asyncio.run(play())
    write_episodes(episode_path(folder, "step", 1), episodes)
    credit = [{"episode_id": e.episode_id, "columns": {"advantage": [0.5] * len(e.turns)}} for e in episodes]
    (folder / "credit").mkdir()
    (folder / "credit/step-000001.jsonl").write_text("".join(json.dumps(line) + "\n" for line in credit))
    return folder


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line with which a command line is refused, before anything is shown or started."""
    assert run([*map(str, words)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"error: .*\n", shown.err)
    return shown.err


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("trian", ("'trian'", "did you mean 'train'", "doctor")),
        ("envs shw", ("'shw'", "did you mean 'show'")),
        ("show x --stp", ("'--stp'", "did you mean '--step'", "--backend")),
        ("doctor more", ("more",)),
        ("train", ("RECIPE", "quickstart")),
        ("train quickstrat", ("'quickstrat'", "did you mean 'quickstart'", "quickstart-outcome")),
        ("train absent.yaml", ("absent.yaml", "No such file")),
        ("train quickstart --set stepz=3", ("'stepz'", "did you mean 'steps'", "rollout")),
        ("train quickstart --set rollout.grup=3", ("'grup'", "did you mean 'group'", "temperature")),
        ("train quickstart --set steps", ("'steps'", "key=value")),
        ("train quickstart --set steps=-1", ("steps", "-1")),
        ("train quickstart --set device=cda", ("'cda'", "did you mean 'cuda'", "auto, cpu, cuda")),
        ("train quickstart --set credit=[grpoo]", ("'grpoo'", "did you mean 'grpo'")),
        ("train quickstart --set env=tools/desk", ("'tools/desk'", "did you mean 'tools/configdesk'")),
        ("train quickstart --set env=tools/configdesk?level=9", ("level", "9", "5")),
        ("train quickstart --set credit=[returns]", ("needs column 'step_reward'", "milestones")),
        ("train quickstart --set model.kind=folder --set model.path=absent", ("absent", "config.json")),
        ("train quickstart --track wandbb", ("'wandbb'", "did you mean 'wandb'", "tensorboard")),
        ("train --resume", ("--run",)),
        ("tasks admit absent --out rows.jsonl", ("'absent'", "no such file")),
        ("tasks admit absent", ("--out",)),
        ("audit tools/desk", ("'tools/desk'", "did you mean 'tools/configdesk'")),
        ("audit tools/configdesk --tasks 0", ("tasks=0",)),
        ("train --resume --run absent", ("'absent'",)),
        ("sft", ("RECIPE", "--from")),
        ("train quickstart --set env=tools/configdesk?level=0", ("level", "0", "1 to 5")),
        ("train quickstart --set credit=grpo", ("grpo", "a list")),
        ("sft --from absent", ("'absent'",)),
        ("sft quickstart --from absent", ("unknown run 'absent'",)),
        ("serve tools/configdesk --port 99999", ("--port", "99999", "65535")),
        ("eval tools/configdesk", ("--policy",)),
        ("eval tools/desk --policy scripted:oracle", ("'tools/desk'", "did you mean 'tools/configdesk'")),
        ("eval tools/configdesk?level=9 --policy scripted:oracle", ("level", "9", "5")),
        ("eval tools/configdesk?levle=2 --policy scripted:oracle", ("'levle'", "did you mean 'level'")),
        ("eval tools/configdesk --policy scripted:orcale", ("did you mean 'scripted:oracle'",)),
        ("eval tools/configdesk --policy absent", ("'absent'", "scripted:oracle")),
        ("eval tools/configdesk --policy scripted:noop --split tets", ("'tets'", "did you mean 'test'")),
        ("eval tools/configdesk --policy scripted:noop --backend proces", ("did you mean 'process'",)),
        ("audit tools/configdesk --backend docker", ("'docker' does not run", "Remedy:")),
        ("serve tools/configdesk --backend docker:runsc", ("'docker:runsc' does not run", "Remedy:")),
        ("serve tools/configdesk --backend process:x", ("'process:x'", "no variants")),
        ("eval tools/configdesk --policy scripted:noop --tasks 0", ("tasks=0",)),
        ("eval tools/configdesk --policy scripted:noop --tasks many", ("--tasks", "'many'")),
        ("eval tools/configdesk --policy scripted:noop --tasks 1001", ("tasks=1001", "1000")),
        ("envs show tools/confdesk", ("'tools/confdesk'", "did you mean 'tools/configdesk'")),
        ("recipes show quickstrat", ("'quickstrat'", "did you mean 'quickstart'")),
        ("show absent", ("'absent'",)),
        ("export absent", ("'absent'",)),
        ("images biuld x", ("'biuld'", "did you mean 'build'", "remove")),
        ("images build tools", ("--from", "--apt", "--host")),
        ("images build tools --host --apt git", ("name one source",)),
        ("images build Tools --host", ("'Tools'", "lower-case")),
        ("images build tools --apt python3,,git", ("''", "no package")),
        ("images build tools --from absent", ("'absent'", "Dockerfile")),
        ("images show tools", ("'tools'", "turnwise images build tools")),
        ("images remove tools", ("'tools'", "turnwise images build tools")),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_with_the_value_and_a_remedy(
    words: str,
    parts: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TURNWISE_IMAGES", "images")
    monkeypatch.setenv("DOCKER_HOST", "unix:///absent")
    line = refused(capsys, *words.split())
    assert [part for part in parts if part not in line] == []
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_never_overwritten(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--resume" in refused(capsys, "train", "quickstart", "--run", recorded)
    assert "--resume" in refused(capsys, "sft", "quickstart", "--run", recorded)


def test_a_resumed_run_refuses_another_recipe(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go_on = ("train", "--resume", "--run", recorded)
    assert "another seed" in refused(capsys, *go_on, "--set", "seed=7")
    assert "another name" in refused(capsys, *go_on, "quickstart-outcome")


def test_a_run_and_an_episode_are_looked_for_by_name(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"did you mean '{recorded}'" in refused(capsys, "show", recorded.with_name("mien"))
    assert "'train-1/7-7'" in refused(capsys, "show", recorded, "train-1/7-7")
    assert "EPISODE" in refused(capsys, "show", recorded, "--step")
    assert "config.yaml" in refused(capsys, "show", recorded.parent)


def test_a_run_to_start_from_is_looked_for_by_name(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near, found = recorded.with_name("mien"), f"did you mean '{recorded}'"
    assert found in refused(capsys, "sft", "--from", near)
    assert found in refused(capsys, "train", "--resume", "--run", near)
    (recorded.parent / "model").mkdir()
    (recorded.parent / "model" / "config.json").touch()
    model = refused(capsys, "eval", DESK, "--policy", recorded.parent / "modle")
    assert f"did you mean '{recorded.parent / 'model'}'" in model


@pytest.mark.parametrize("content", ["a: 1", "[", "- name", "\xff"])
def test_a_folder_whose_config_is_no_runs_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "config.yaml").write_text(content, encoding="latin-1")
    assert "config.yaml" in refused(capsys, "show", tmp_path)


def test_a_damaged_file_of_episodes_is_named(
    recorded: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(recorded, tmp_path / "run")
    path = episode_path(tmp_path / "run", "step", 1)
    path.write_bytes(path.read_bytes()[:-9])
    for command in ("show", "export"):
        assert "step-000001.jsonl, line 2" in refused(capsys, command, tmp_path / "run")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_starts(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    line = refused(capsys, "train", "quickstart", "--track", name, "--run", tmp_path / "run")
    assert f"pip install {name}" in line
    assert not (tmp_path / "run").exists()


def test_a_path_that_cannot_be_written_is_named(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = recorded.parent / "absent" / "x.parquet"
    assert str(target) in refused(capsys, "export", recorded, "--out", target)


# ---------------------------------------------------------------- what is shown


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command prints; it succeeds, at 80 columns and without escapes."""
    assert run([*map(str, words)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    return out


def test_help_names_every_command_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "--help")
    for name in ("doctor", "envs", "train", "sft", "eval", "audit", "show", "recipes", "export"):
        assert f"\n  {name} " in out
    for name in ("train", "sft", "eval", "audit", "show", "export", "envs", "recipes"):
        assert f"turnwise {name}" in shown(capsys, name, "--help").partition("Examples:")[2]


def test_doctor_says_what_is_missing_and_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "doctor")
    for name in ("namespaces", "process", "torch", "GPU", "vLLM", "browser", "docker"):
        assert re.search(rf"^  {name} +(ok|missing) ", out, re.MULTILINE), name
    entries = re.split(r"^(?=  \w)", out, flags=re.MULTILINE)
    missing = [entry for entry in entries if re.match(r" +\S+ +missing ", entry)]
    assert missing, "there is no vLLM here"
    assert [entry for entry in missing if "remedy: " not in entry] == []


def test_envs_lists_and_describes(capsys: pytest.CaptureFixture[str]) -> None:
    assert DESK in shown(capsys, "envs")
    out = shown(capsys, "envs", "show", f"{DESK}?level=2", *PROCESS)
    for words in ("set(key: string, value: string)", "value_set", "outcome", "from 1 to 5, here 2", "copy "):
        assert words in out


def test_envs_show_says_how_tasks_are_graded(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "envs", "show", "swe/sample?level=1")
    assert re.search(r"train +10,000, graded of the first 500: 500 split", out)
    assert re.search(r"test +4, graded: 4 split", shown(capsys, "envs", "show", "swe/sample"))


def test_recipes_list_and_explain_themselves(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "quickstart-shaped" in shown(capsys, "recipes")
    printed = shown(capsys, "recipes", "show", "quickstart")
    (tmp_path / "mine.yaml").write_text(printed)
    assert Recipe.load(tmp_path / "mine.yaml") == Recipe.load("quickstart")
    schema = json.loads(shown(capsys, "recipes", "show", "quickstart", "--schema"))
    assert schema["properties"]["steps"]["description"]


def test_a_dry_run_says_what_would_be_done_and_what_is_lacking(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = shown(capsys, "train", "quickstart", "--dry-run")
    for line in (
        r"a step +16 tasks × 8 = 128 episodes",
        r"training +30 steps",
        r"verdict .* can be trained here",
    ):
        assert re.search(line, out), line
    out = shown(capsys, "train", "swe-gated-7b", "--dry-run")
    assert re.search(r"lacks here +recipe swe-gated-7b: model.path=", out)
    assert re.search(r"verdict +the recipe is sound *$", out, re.MULTILINE)
    refused(capsys, "train", "quickstart", "--dry-run", "--set", "credit=[returns]")
    assert not list(tmp_path.iterdir())


REPAIR = {
    "task.yaml": "issue: double(5) gives 6.\nfail_to_pass: [test_calc.py::test_five]\n"
    "pass_to_pass: [test_calc.py::test_one]\nrunner: plain\n",
    "repo/calc.py": "def double(x): return x + 1\n",
    "tests/test_calc.py": "from calc import double\n\n\ndef test_five():\n    assert double(5) == 10\n\n\n"
    "def test_one():\n    assert double(1) == 3\n",
    "patch.diff": "--- a/calc.py\n+++ b/calc.py\n@@ -1 +1 @@\n-def double(x): return x + 1\n"
    "+def double(x): return x + x\n",
}
"""A task for the test split, whose second test fails before any change."""


@pytest.fixture
def repair(tmp_path: Path) -> Path:
    """A folder with that task."""
    for name, content in REPAIR.items():
        path = tmp_path / "double" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / "double"


def test_a_dry_run_refuses_an_environment_without_training_tasks(
    repair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = (f"env=swe/tasks?path={repair}", "evaluate.tasks=1", "evaluate.split=test")
    settings = [word for setting in chosen for word in ("--set", setting)]
    line = refused(capsys, "train", "swe-gated", "--dry-run", *settings)
    assert f"env=swe/tasks?path={repair} has no tasks in split 'train'" in line


def test_what_tests_printed_keeps_its_lines(repair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In an error, and where a task is left out."""
    (repair / "repo" / "calc.py").write_text('print("\\x1b[2J")\n' + REPAIR["repo/calc.py"])
    (repair / "patch.diff").write_text(REPAIR["patch.diff"].replace("@@ -1 +1 @@", "@@ -2 +2 @@"))
    out = repair.parent / "rows.jsonl"
    for command in (("eval", f"swe/tasks?path={repair}", *ORACLE), ("tasks", "admit", repair, "--out", out)):
        assert run([*map(str, command)]) == 1
        first, *quoted = capsys.readouterr().err.splitlines()
        assert "test_calc.py::test_one fails before any change (1 such)" in first
        assert [line for line in quoted if not line.startswith("  | ")] == []
        assert any("FAILED test_calc.py::test_one: line 9" in line for line in quoted)
        assert any("\\x1b[2J" in line for line in quoted)


def test_eval_measures_a_policy(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "eval", DESK, *ORACLE, *PROCESS, "--tasks", 4, "--k", 2)
    for line in (r"success +100%", r"tasks +4 of test, 2 tries each", r"pass@2 +100%", r"ends +8 submitted"):
        assert re.search(line, out)
    assert re.search(r"success +0% ", shown(capsys, "eval", DESK, *NOOP, *PROCESS, "--tasks", 2))


def test_show_gives_an_overview_and_an_episode(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "train-1/1-0" in shown(capsys, "show", recorded)
    out = shown(capsys, "show", recorded, "train-1/1-0")
    assert re.search(r"1  grep\(word='\w+'\) +– +\+0\.50", out)
    assert "✓ check passed" in out


def test_export_writes_every_turn(recorded: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "turns.parquet"
    assert "16 turns" in shown(capsys, "export", recorded, "--out", target)
    assert target.stat().st_size > 0


# ---------------------------------------------------------------- by hand


def by_hand(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_an_episode_is_replayed_by_hand_to_the_same_end(
    recorded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand(monkeypatch, *[""] * 8)
    out = shown(capsys, "show", recorded, "train-1/0-0", "--step", *PROCESS)
    assert out.count("recorded  the same") == 8
    assert "The end: submitted, score 1 (recorded: score 1)." in out


def test_another_call_shows_its_answer_beside_the_recorded_one(
    recorded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand(monkeypatch, "frobnicate", "get", "get nothing", "q")
    out = shown(capsys, "show", recorded, "train-1/0-0", "--step", *PROCESS)
    assert "unknown tool frobnicate (tools: grep, open" in out
    assert "get takes 1 argument" in out
    assert re.search(r"now +error: open a file first\nrecorded +\w+\n", out)
    assert "The end" not in out


# ---------------------------------------------------------------- the process


def test_what_needs_no_torch_does_not_import_it(recorded: Path) -> None:
    commands = [["--help"], ["doctor"], ["envs"], ["recipes"], ["show", str(recorded)]]
    code = f"""
import sys
from turnwise.cli import run
assert not {{"pydantic", "numpy", "rich"}} & set(sys.modules)
assert [run(words) for words in {commands!r}] == [0] * {len(commands)}
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["train", "quickstart", "--set", "backend=process", "--run", str(folder)]
    code = f"from turnwise.cli import main; import sys; sys.argv = {['turnwise', *words]!r}; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert "quickstart on tools/configdesk" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 130
    assert f"interrupted; to go on: turnwise train --resume --run {folder}" in errors
    assert "Traceback" not in errors
    assert (folder / "report.html").exists()
