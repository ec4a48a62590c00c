"""``turnwise compare``: from the command to the page, through failures, kills and Ctrl-C.

The runs are processes of their own, so the game they learn comes as a plugin, as a stranger's would.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from tests.processes import offspring, until_ended
from turnwise.agents.tokenizer import build_tokenizer
from turnwise.cli import run

GUESS = Path(__file__).parent / "trainer" / "guess.py"
TINY = """
name: {name}
env: test/guess
credit: [outcome, {credit}]
model: {{kind: tiny, hidden_size: 32, heads: 2, kv_heads: 1, ffn_size: 64, context: 64}}
warm_start: {{demonstrations: 32, oracle: 0.6, gate: 0, max_steps: 10, check_every: 10, batch: 16}}
rollout: {{tasks: 2, group: 2, max_tokens: 6}}
evaluate: {{tasks: 8, every: 1}}
steps: 1
device: cpu
"""
BROKEN = "model: {kind: folder, path: broken}"
WHOLE = "compare a.yaml b.yaml broken.yaml --seeds 1 --run c"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with recipes, on whose path the plugin is; the tests are in it."""
    folder = tmp_path_factory.mktemp("compare")
    told = folder / "guess_plugin-0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: guess-plugin\nVersion: 0\n")
    (told / "entry_points.txt").write_text("[turnwise.plugins]\nguess = guess\n")
    (folder / "guess.py").write_text(GUESS.read_text())
    for name, credit in (("a", "grpo"), ("b", "rloo"), ("broken", "grpo")):
        (folder / f"{name}.yaml").write_text(TINY.format(name=name, credit=credit))
    broken = re.sub("model: .*", BROKEN, (folder / "broken.yaml").read_text())
    (folder / "broken.yaml").write_text(broken)
    build_tokenizer(["a word"]).save_pretrained(folder / "broken")
    (folder / "broken/config.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        import_module("guess")
        yield folder


def told(words: str) -> tuple[int, str, str]:
    """The exit code of a command line, and what it writes."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = run(words.split())
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def whole(place: Path) -> tuple[int, str, str]:
    """A comparison of three recipes, one of which cannot load its model."""
    return told(WHOLE)


def test_a_comparison_from_the_command_to_the_page(place: Path, whole: tuple[int, str, str]) -> None:
    code, out, err = whole
    assert code == 1
    assert re.search(r"^1/3  a, seed 0: \d+(\.\d)?% held out, \d+ CPU seconds$", out, re.MULTILINE)
    assert re.search(r"^recipe +runs +held-out success +curve mean +submitted +CPU s$", out, re.MULTILINE)
    assert re.search(r"^b +1/1 +\d+\.\d%", out, re.MULTILINE)
    assert re.search(r"^b +− a +[+-]\d+\.\d +[+-]\d+\.\d +1$", out, re.MULTILINE)
    assert re.search(r"^broken +− a +– +– +0 of 1$", out, re.MULTILINE)
    assert re.search(r"Did not finish\nbroken, seed 0 +failed: warm start: exit code 1: ", out)
    assert "runs broke off" in err
    result = json.loads((place / "c/compare.json").read_text())
    assert [(arm["recipe"], [r["stopped"] for r in arm["runs"]]) for arm in result["arms"][:2]] == [
        ("a", ["finished"]),
        ("b", ["finished"]),
    ]
    ours, theirs = (arm["runs"][0] for arm in result["arms"][:2])
    assert [point["step"] for point in ours["curve"]] == [0, 1]
    assert [point["episodes"] for point in ours["curve"]] == [0, 4]
    assert ours["curve"][0]["success"] == theirs["curve"][0]["success"]
    assert result["manifest"]["command"] == "turnwise compare a.yaml b.yaml broken.yaml --seeds 1"


def test_recipes_that_would_do_the_same_warm_start_share_one(
    place: Path, whole: tuple[int, str, str]
) -> None:
    with_summary = [path.parent.name for path in (place / "c/warm").glob("*/summary.json")]
    assert len(with_summary) == 1
    a, b = ((place / f"c/runs/{name}/seed-0/demonstrations.jsonl").read_text() for name in "ab")
    assert a == b


def test_the_page_and_the_plot_need_nothing_else(place: Path, whole: tuple[int, str, str]) -> None:
    page, plot = ((place / f"c/compare.{kind}").read_text() for kind in ("html", "svg"))
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "Tuning: 0 trials for each recipe" in page
    assert "turnwise compare a.yaml b.yaml broken.yaml --seeds 1" in page
    assert "1 of 3 runs did not finish" in page
    assert plot.startswith("<svg")
    assert "prefers-color-scheme: dark" in plot
    assert plot.count('class="s1 d0 line"') == plot.count('class="s2 d1 line"') == 3


def test_the_same_command_keeps_what_is_finished(place: Path, whole: tuple[int, str, str]) -> None:
    before = (place / "c/runs/a/seed-0/summary.json").stat().st_mtime_ns
    code, out, _ = told(WHOLE)
    assert code == 1
    assert re.search(r"^1/3  a, seed 0: .* \(kept\)$", out, re.MULTILINE)
    assert (place / "c/runs/a/seed-0/summary.json").stat().st_mtime_ns == before


def test_another_command_into_the_folder_is_refused(place: Path, whole: tuple[int, str, str]) -> None:
    code, out, err = told(WHOLE.replace("--seeds 1", "--seeds 2"))
    assert (code, out) == (2, "")
    assert "'c' was begun with seeds = [0], not [0, 1]" in err


def until(condition: Any) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come about")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_running(place: Path, number: signal.Signals) -> None:
    """Ended while its first run is at work; SIGINT as Ctrl-C sends it, to all of the processes."""
    folder = f"stopped-{number.name}"
    endless = "--set warm_start.gate=1 --set warm_start.max_steps=1000000"
    words = f"compare a.yaml b.yaml --seeds 1 {endless} --run {folder}"
    process = subprocess.Popen(
        [sys.executable, "-c", "from turnwise.cli import main; main()", *words.split()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    until(lambda: any((place / folder / "warm").glob("*/config.yaml")))
    below = offspring(process.pid)
    assert below
    os.killpg(process.pid, number) if number is signal.SIGINT else process.kill()
    out, err = process.communicate(timeout=300)
    until_ended(below)
    assert process.returncode == (130 if number is signal.SIGINT else -number)
    assert not any((place / folder / "warm").glob("*/summary.json"))
    if number is signal.SIGINT:
        assert (out, err) == ("", f"interrupted; what is finished is kept: add --run {folder} to go on\n")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("", ("RECIPE",)),
        ("quickstart --seeds 2", ("1 recipe", "two or more")),
        ("quickstart quickstrat --seeds 2", ("'quickstrat'", "did you mean 'quickstart'")),
        ("quickstart quickstart-outcome", ("--seeds",)),
        ("quickstart quickstart-outcome --seeds 0", ("seeds=0",)),
        ("quickstart quickstart-outcome --seeds two", ("--seeds", "'two'")),
        ("quickstart quickstart --seeds 2", ("two recipes", "'quickstart'")),
        (
            "quickstart quickstart-outcome --seeds 2 --set-for quickstart:rollout.group=4",
            ("not comparable", "rollout.group is 4 and 8"),
        ),
        ("quickstart quickstart-outcome --seeds 1 --jobs 0", ("--jobs",)),
        ("quickstart quickstart-outcome --seeds 1 --set-for quickstrat:steps=3", ("'quickstrat'", "mean")),
        ("quickstart quickstart-outcome --seeds 1 --set-for quickstart:steps=3", ("steps is 3 and 30",)),
        ("quickstart quickstart-outcome --seeds 1 --tune steps", ("--tune 'steps'", "key=value,value")),
        ("quickstart quickstart-outcome --seeds 1 --tune steps=", ("key=value,value",)),
        ("quickstart quickstart-outcome --seeds 1 --tune optimizer.lr=1", ("optimizer.lr", "two values")),
        ("quickstart quickstart-outcome --seeds 1 --tune optimizer.lr=1,x", ("optimizer.lr", '"x"')),
        (
            "quickstart quickstart-outcome --seeds 1 --set steps=2 --tune steps=2,3",
            ("--tune 'steps=2,3'", "given twice"),
        ),
    ],
)
def test_bad_input_is_one_line(
    words: str,
    parts: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["compare", *words.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"error: .*\n", shown.err)
    assert [part for part in parts if part not in shown.err] == []
    assert list(tmp_path.iterdir()) == []
