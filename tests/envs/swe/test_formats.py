"""Published rows, folders and rows of our own become tasks; what cannot is named, skipped and counted."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from turnwise.agents.evaluate import evaluate
from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.envs.swe.formats import load_tasks
from turnwise.envs.swe.formats.places import Places
from turnwise.envs.swe.patch import make_patch
from turnwise.envs.swe.problems import ProblemKind
from turnwise.envs.swe.task import ImageRepository
from turnwise.sandbox import images

BROKEN = "def double(x):\n    return x + 1\n"
RIGHT = "def double(x):\n    return x + x\n"
TEST = "from calc import double\n\n\ndef test_one():\n    assert double(1) == 2\n"
MORE = TEST + "\n\ndef test_five():\n    assert double(5) == 10\n"
ISSUE = "double(5) gives 6"


def diff(before: dict[str, str], after: dict[str, str]) -> str:
    return make_patch(
        {path: text.encode() for path, text in before.items()},
        {path: t.encode() for path, t in after.items()},
    )


PATCH = diff({"calc.py": BROKEN}, {"calc.py": RIGHT})


def bench_row(name: str = "me__calc-1", **fields: Any) -> dict[str, Any]:
    """A row of SWE-bench Verified."""
    row = {
        "repo": "me/calc",
        "instance_id": name,
        "base_commit": "0" * 40,
        "patch": PATCH,
        "test_patch": diff({"test_calc.py": TEST}, {"test_calc.py": MORE}),
        "problem_statement": ISSUE,
        "hints_text": "",
        "created_at": "2024-01-01",
        "version": "1.0",
        "FAIL_TO_PASS": '["test_calc.py::test_five"]',
        "PASS_TO_PASS": '["test_calc.py::test_one"]',
        "environment_setup_commit": "0" * 40,
        "difficulty": "<15 min fix",
    }
    return row | fields


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def checkout(folder: Path, name: str, files: dict[str, str]) -> Path:
    """A repository of a row; the folder that holds it."""
    for path, text in files.items():
        place = folder / "checkouts" / name / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return folder / "checkouts"


def test_a_row_of_swe_bench(tmp_path: Path) -> None:
    places = Places(repositories=checkout(tmp_path, "me__calc-1", {"calc.py": BROKEN, "test_calc.py": TEST}))
    loaded = load_tasks(write(tmp_path, [bench_row()]), places=places)
    (task,) = loaded.tasks
    assert task.hidden == {"test_calc.py": MORE}
    assert (task.fail_to_pass, task.pass_to_pass) == (
        ("test_calc.py::test_five",),
        ("test_calc.py::test_one",),
    )
    assert (task.split, task.difficulty, task.issue) == ("test", 0.1, ISSUE)
    assert "test_five" not in task.task("swe/tasks", 0).public.model_dump_json()
    assert "x + x" not in task.task("swe/tasks", 0).public.model_dump_json()


class Testbed:
    """An image that holds little more than a repository."""

    def fill(self, root: Path, scratch: Path) -> str:
        (root / "etc").mkdir()
        (root / "testbed").mkdir()
        (root / "testbed/calc.py").write_text(BROKEN)
        (root / "testbed/test_calc.py").write_text(TEST)
        return "a testbed"


@pytest.mark.parametrize(
    ("fields", "image"),
    [
        ({}, "swebench_sweb.eval.x86_64.me_1776_calc-1"),
        ({"environment_setup_commit": None}, "xingyaoww_sweb.eval.x86_64.me_s_calc-1"),
    ],
)
def test_images_are_found_by_their_published_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], image: str
) -> None:
    monkeypatch.setenv("TURNWISE_IMAGES", str(tmp_path / "images"))
    row = {key: value for key, value in bench_row(**fields).items() if value is not None}
    with pytest.raises(UsageError, match=f"there is no image {image}; make it from"):
        load_tasks(write(tmp_path, [row]))
    images.Store().build(image, Testbed())
    (task,) = load_tasks(write(tmp_path, [row])).tasks
    assert isinstance(task.repository, ImageRepository)
    assert task.repository.root == str(images.find(image))
    assert task.at == "/testbed"
    assert task.split == ("train" if fields else "test")


def test_a_row_of_swe_smith_is_broken_by_its_patch(tmp_path: Path) -> None:
    row = {
        "instance_id": "calc.1",
        "repo": "swesmith/calc",
        "image_name": "swesmith/calc",
        "patch": diff({"calc.py": RIGHT}, {"calc.py": BROKEN}),
        "problem_statement": ISSUE,
        "FAIL_TO_PASS": ["test_more.py::test_five"],
        "PASS_TO_PASS": ["test_calc.py::test_one"],
    }
    files = {"calc.py": RIGHT, "test_calc.py": TEST, "test_more.py": MORE}
    places = Places(repositories=checkout(tmp_path, "calc.1", files))
    (task,) = load_tasks(write(tmp_path, [row]), places=places).tasks
    assert task.overlay == {"calc.py": BROKEN, "test_more.py": None}
    assert task.hidden == {"test_more.py": MORE}
    assert task.patch == PATCH
    assert task.split == "train"


def test_a_row_of_r2e_gym(tmp_path: Path) -> None:
    changed = {
        "header": {"file": {"path": "calc.py"}},
        "hunks": [],
        "old_file_content": BROKEN,
        "new_file_content": RIGHT,
    }
    row = {
        "repo_name": "calc",
        "docker_image": "me/calc:1",
        "commit_hash": "abcdef0123456789",
        "parsed_commit_content": json.dumps({"file_diffs": [changed]}),
        "execution_result_content": json.dumps(
            {
                "test_file_names": ["test_1.py"],
                "test_file_codes": [MORE],
                "old_commit_res_stdout": "PASSED r2e_tests/test_1.py::test_one\nFAILED test_1.py::test_five",
            }
        ),
        "expected_output_json": json.dumps(
            {"test_one": "PASSED", "test_five": "PASSED", "test_six": "FAILED"}
        ),
        "problem_statement": ISSUE,
    }
    places = Places(repositories=checkout(tmp_path, "calc-abcdef012345", {"calc.py": BROKEN}))
    (task,) = load_tasks(write(tmp_path, [row]), places=places).tasks
    assert (task.fail_to_pass, task.pass_to_pass) == (("test_five",), ("test_one",))
    assert task.hidden == {"r2e_tests/test_1.py": MORE}
    assert task.patch == PATCH
    assert task.ids == "dotted"


def test_parquet_reads_as_lines_do(tmp_path: Path) -> None:
    places = Places(repositories=checkout(tmp_path, "me__calc-1", {"calc.py": BROKEN, "test_calc.py": TEST}))
    row = bench_row(FAIL_TO_PASS=["test_calc.py::test_five"], PASS_TO_PASS=[])
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "rows.parquet")
    (task,) = load_tasks(str(tmp_path / "rows.parquet"), places=places).tasks
    assert task.fail_to_pass == ("test_calc.py::test_five",)
    assert task.pass_to_pass == ()


def folder_task(folder: Path, name: str = "double", **fields: Any) -> Path:
    """A plain folder."""
    top = folder / "tasks" / name
    for path, text in {
        "repo/calc.py": BROKEN,
        "repo/test_calc.py": TEST,
        "tests/test_calc.py": MORE,
        "patch.diff": PATCH,
        "task.yaml": json.dumps(
            {
                "issue": ISSUE,
                "fail_to_pass": ["test_calc.py::test_five"],
                "pass_to_pass": ["test_calc.py::test_one"],
                "visible": ["test_calc.py"],
                "runner": "plain",
                **fields,
            }
        ),
    }.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text)
    return top


async def test_folders_are_played_and_solved(tmp_path: Path) -> None:
    folder_task(tmp_path)
    folder_task(tmp_path, "twice", split="train")
    env = f"swe/tasks?path={tmp_path / 'tasks'}"
    assert (await evaluate(env, "scripted:oracle", tasks=1, concurrency=1)).success == 1.0
    assert (await evaluate(env, "scripted:oracle", split="train", tasks=1, concurrency=1)).success == 1.0
    several = f"swe/tasks?path={tmp_path / 'tasks' / 'double'},{tmp_path / 'tasks' / 'twice'}"
    assert [len(EnvSpec.parse(several).make().task_set(split)) for split in ("train", "test")] == [1, 1]
    with pytest.raises(UsageError, match=r"split 'validation' of .* has 0"):
        await evaluate(env, "scripted:oracle", split="validation", tasks=1)
    async with LocalEnvs() as envs:
        with pytest.raises(UsageError, match="'validation' of swe/tasks has no tasks"):
            envs.session(env, split="validation")


async def test_rows_are_played_with_the_bug_laid_over_the_repository(tmp_path: Path) -> None:
    row = {
        "instance_id": "calc.1",
        "repo": "swesmith/calc",
        "image_name": "swesmith/calc",
        "patch": diff({"calc.py": RIGHT}, {"calc.py": BROKEN}),
        "problem_statement": ISSUE,
        "FAIL_TO_PASS": ["test_more.py::test_five"],
        "PASS_TO_PASS": ["test_more.py::test_one"],
    }
    files = {"calc.py": RIGHT, "test_more.py": MORE}
    path, folder = write(tmp_path, [row]), checkout(tmp_path, "calc.1", files)
    env = f"swe/tasks?path={path}&repositories={folder}"
    result = await evaluate(env, "scripted:oracle", split="train", tasks=1, concurrency=1)
    assert result.success == 1.0, result.episodes[0].error


def test_what_cannot_be_a_task_is_named_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNWISE_IMAGES", str(tmp_path / "images"))
    good = {"calc.py": BROKEN, "test_calc.py": TEST}
    for name in ("good", "stale", "submodule", "twice", "bad-ids"):
        checkout(tmp_path, name, good)
    checkout(tmp_path, "modules", good | {".gitmodules": "[submodule]\n"})
    (checkout(tmp_path, "link", good) / "link/other.py").symlink_to("calc.py")
    rows = [
        bench_row("good"),
        bench_row("good"),
        bench_row("missing"),
        bench_row("stale", patch=PATCH.replace("x + 1", "y + 1")),
        bench_row("submodule", patch="diff --git a/m b/m\n--- a/m\n+++ b/m\nSubproject commit 1\n"),
        bench_row("modules"),
        bench_row("link"),
        bench_row("bad-ids", FAIL_TO_PASS="[]"),
        bench_row("other-runner", repo="django/django"),
        {"id": "strange", "text": "?"},
    ]
    with caplog.at_level(logging.WARNING):
        loaded = load_tasks(write(tmp_path, rows), places=Places(repositories=tmp_path / "checkouts"))
    assert [task.id for task in loaded.tasks] == ["good"]
    assert [(problem.task, problem.kind) for problem in loaded.skipped] == [
        ("good", ProblemKind.ROW),
        ("missing", ProblemKind.IMAGE),
        ("stale", ProblemKind.PATCH),
        ("submodule", ProblemKind.SUBMODULES),
        ("modules", ProblemKind.SUBMODULES),
        ("link", ProblemKind.REPOSITORY),
        ("bad-ids", ProblemKind.ROW),
        ("other-runner", ProblemKind.ROW),
        ("strange", ProblemKind.ROW),
    ]
    assert "9 of 10 tasks" in caplog.text
    assert "Skipped task missing: there is no image" in caplog.text


def test_too_many_files_are_refused_without_reading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwise.envs.swe.repository.MOST_FILES", 100)
    top = folder_task(tmp_path)
    for number in range(101):
        (top / "repo" / f"f{number}").touch()
    with pytest.raises(UsageError, match="more than 100 files"):
        load_tasks(str(tmp_path / "tasks"))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"fail_to_pass": []}, "fail_to_pass"),
        ({"isue": "x"}, "did you mean 'issue'"),
        ({"runner": "nose"}, "runner"),
    ],
)
def test_a_wrong_task_file_is_named_with_its_field(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    folder_task(tmp_path, **fields)
    with pytest.raises(UsageError, match=says):
        load_tasks(str(tmp_path / "tasks"))


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nowhere.jsonl", "no such file or folder"),
        ("rows.csv", "give a .jsonl, .json or .parquet file, a folder, or hub:"),
        ("broken.jsonl", "line 1 is no JSON"),
        ("list.jsonl", "rows must be JSON objects"),
    ],
)
def test_a_path_that_holds_no_rows_is_named(tmp_path: Path, path: str, says: str) -> None:
    (tmp_path / "rows.csv").touch()
    (tmp_path / "broken.jsonl").write_text("{")
    (tmp_path / "list.jsonl").write_text("[1]\n")
    with pytest.raises(UsageError, match=says):
        load_tasks(str(tmp_path / path))


def test_our_own_rows_are_read_with_their_folders_beside_them(tmp_path: Path) -> None:
    folder_task(tmp_path)
    (task,) = load_tasks(str(tmp_path / "tasks")).tasks
    data = task.model_dump(mode="json") | {"repository": {"kind": "folder", "path": "tasks/double/repo"}}
    (again,) = load_tasks(write(tmp_path, [data])).tasks
    assert again == task


def test_the_hub_asks_for_its_package() -> None:
    with pytest.raises(UsageError, match="pip install datasets"):
        load_tasks("hub:princeton-nlp/SWE-bench_Verified")
