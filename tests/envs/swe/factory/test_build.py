"""A build from a source distribution to tasks that load, are what they say, and can be solved."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from tests.envs.swe.factory.conftest import FILES, SHAPES, WORDS, build, write_sdist
from turnwise.agents.evaluate import evaluate
from turnwise.cli import run
from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.envs.session import Session
from turnwise.envs.swe.bench import counted
from turnwise.envs.swe.environment import SweEnv
from turnwise.envs.swe.factory.problems import PackageFault
from turnwise.envs.swe.factory.records import Order
from turnwise.envs.swe.factory.report import BuildReport
from turnwise.envs.swe.factory.splits import allot
from turnwise.envs.swe.formats.load import load_tasks
from turnwise.envs.swe.task import SweTask
from turnwise.envs.types import SPLITS

Built = tuple[Path, BuildReport]


def tasks_of(folder: Path) -> tuple[SweTask, ...]:
    loaded = load_tasks(str(folder))
    assert not loaded.skipped
    return loaded.tasks


def test_a_bad_package_is_named_and_the_rest_goes_on(built: Built) -> None:
    _, report = built
    assert [refused.fault for refused in report.refused] == [PackageFault.NO_TESTS]
    assert report.refused[0].message.startswith("bare-1.0.tar.gz: it comes without tests")
    assert (report.finished, report.tasks) == (True, 6)


def test_what_is_not_green_is_left_out(built: Built) -> None:
    folder, report = built
    package = report.packages[0]
    assert (package.tests, package.left_out) == (10, 3)
    left = (folder / "repositories/pack-1.0/tests/test_shapes.py").read_text()
    assert "test_is_wrong" not in left
    assert "test_is_skipped" not in left
    assert not (folder / "repositories/pack-1.0/tests/test_needs.py").exists()
    assert (folder / "repositories/pack-1.0/src/pack/names.txt").is_file()


def test_there_are_bugs_in_two_places_and_bodies_to_be_written(built: Built) -> None:
    kinds = built[1].packages[0].kinds
    assert kinds["rewrite"]
    assert kinds["two_places"]


def test_splits_share_no_module(built: Built) -> None:
    modules = {split: {task.module for task in tasks_of(built[0]) if task.split == split} for split in SPLITS}
    assert not modules["train"] & modules["test"]
    assert modules["train"]
    assert modules["test"]
    splits = allot({f"m{n}": n % 7 + 1.0 for n in range(60)})
    shares = {split: sum(int(m[1:]) % 7 + 1 for m in splits if splits[m] == split) for split in SPLITS}
    assert shares["train"] > 3 * shares["test"] > 3 * shares["validation"] > 0


def test_no_two_tasks_are_alike(built: Built) -> None:
    tasks = tasks_of(built[0])
    assert len({task.patch for task in tasks}) == len({task.id for task in tasks}) == len(tasks)


def test_what_fails_cannot_be_seen_and_the_issue_names_no_spot(built: Built) -> None:
    for task in tasks_of(built[0]):
        shown = "".join(text for text in task.overlay.values() if text is not None)
        for test in task.fail_to_pass:
            assert f"def {test.split('::')[-1].split('[')[0]}(" not in shown
        assert "shapes.py" not in task.issue
        assert "words.py" not in task.issue
        assert task.difficulty is not None
        assert 0 <= task.difficulty <= 1
        assert task.assurance is not None


def test_every_task_starts_as_it_says_and_is_solved_by_its_reference(built: Built) -> None:
    async def check() -> None:
        env = EnvSpec.parse(f"swe/tasks?path={built[0]}")
        async with LocalEnvs(backend="namespaces", capacity=4) as envs:
            for task in tasks_of(built[0])[:2]:
                await _check(envs.session(env, task=task.task("swe/tasks", 0)), task)
        result = await evaluate(env, "scripted:oracle", split="train", tasks=2)
        assert result.success == 1.0, [episode.error for episode in result.episodes]

    asyncio.run(check())


async def _check(session: Session, task: SweTask) -> None:
    async with session:
        await session.reset()
        env = session.env
        assert isinstance(env, SweEnv)
        seen = await env.bench.run({}, list(task.visible))
        assert seen.ended
        assert all(seen.outcomes.values())
        broken = await env.bench.trial({})
        assert set(counted(task)) - broken.passed == set(task.fail_to_pass)


def test_tasks_ask_for_fresh_inputs_of_the_functions_that_show_the_bug(built: Built) -> None:
    found = {task.patch: task.seeded for task in tasks_of(built[0]) if task.seeded is not None}
    assert len(found) >= 3
    entries = {test.entry for seeded in found.values() for test in seeded.tests}
    assert entries <= {f"pack.shapes:{name}" for name in ("area", "border", "fits")} | {
        f"pack.words:{name}" for name in ("initials", "clip", "count")
    }
    for patch, seeded in found.items():
        assert seeded.calibration is not None
        for test in seeded.tests:
            assert test.tells >= 0.03
            assert patch.startswith(f"--- a/src/{test.entry.partition(':')[0].replace('.', '/')}.py")
    assert sum(built[1].seeded.values()) == built[1].tasks
    assert built[1].tasks - built[1].seeded.get("0", 0) == len(found)


def test_a_folder_can_be_moved(built: Built, tmp_path: Path) -> None:
    shutil.copytree(built[0], tmp_path / "elsewhere")
    moved, here = tasks_of(tmp_path / "elsewhere"), tasks_of(built[0])
    assert [task.hidden for task in moved] == [task.hidden for task in here]
    assert str(tmp_path) in moved[0].repository.model_dump_json()


def test_a_build_that_was_cut_off_ends_the_same(built: Built, order: Order, tmp_path: Path) -> None:
    folder, report = built
    whole = (folder / "progress.jsonl").read_text().splitlines(keepends=True)
    torn = "".join(whole[: len(whole) // 2]) + whole[len(whole) // 2][:30]
    shutil.copytree(folder / "repositories", tmp_path / "again/repositories")
    (tmp_path / "again/progress.jsonl").write_text(torn)
    again = asyncio.run(build(order, tmp_path / "again", [], jobs=1))
    assert [(task.id, task.patch) for task in tasks_of(tmp_path / "again")] == [
        (task.id, task.patch) for task in tasks_of(folder)
    ]
    assert again.splits == report.splits


async def test_another_order_is_refused(built: Built, order: Order, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds another build"):
        await build(order.model_copy(update={"seed": 4}), built[0], [])
    (tmp_path / "note").touch()
    with pytest.raises(UsageError, match="is not empty and holds no build"):
        await build(order, tmp_path, [])


async def test_packages_without_a_baseline_are_named(tmp_path: Path) -> None:
    tests = {"tests/test_shapes.py": "from pack.shapes import gone\n\n\ndef test_it():\n    pass\n"}
    needs = {"PKG-INFO": FILES["PKG-INFO"]}
    broken = write_sdist(
        tmp_path, {"src/pack/__init__.py": "", "src/pack/shapes.py": SHAPES, **tests, **needs}, "broken-1.0"
    )
    report = await build(Order(sources=(str(broken),), tasks=1, seed=0), tmp_path / "out", [])
    assert report.refused[0].fault is PackageFault.NO_BASELINE
    assert "cannot import name 'gone'" in report.refused[0].message


async def test_a_bug_at_which_the_judge_fails_is_left_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fatal = "import os\n\nif not os.path.isdir('/opt/turnwise'):  # where the judge is\n    os._exit(3)\n\n"
    files = {**FILES, "src/pack/shapes.py": fatal + SHAPES, "src/pack/words.py": fatal + WORDS}
    archive = write_sdist(tmp_path, files)
    report = await build(Order(sources=(str(archive),), tasks=1, seed=0), tmp_path / "out", [])
    assert report.finished
    assert '"reason":"unjudged"' in (tmp_path / "out/progress.jsonl").read_text()
    assert "pack-1.0: no task of bug" in caplog.text
    assert "the judge ended early" in caplog.text


def test_the_command_builds_and_says_what_became_of_it(
    built: Built, order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [word for source in order.sources for word in ("--from", source)]
    words = ["tasks", "build", "swe", *sources, "--out", str(built[0]), "--tasks", "6", "--seed", "3"]
    assert run(words) == 0
    said = capsys.readouterr().out
    assert "pack-1.0: 10 tests pass, 3 left out" in said
    assert "left out (no_tests): bare-1.0.tar.gz" in said
    assert "6 tasks in" in said
    assert f"{6 - built[1].seeded.get('0', 0)} of them ask for fresh inputs" in said
    assert json.loads((built[0] / "report.json").read_text())["packages"][0]["kept"] == 6
    assert run(["tasks", "build", "swe", "--from", "toolz", "--out", "x"]) == 2
    assert "say PACKAGE==VERSION" in capsys.readouterr().err
