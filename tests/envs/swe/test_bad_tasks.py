"""A task that is wrong is an error of the environment, with its name; it never counts against the agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.envs.swe.conftest import BROKEN
from turnwise.envs.local import LocalEnvs
from turnwise.envs.session import EpisodeFailed
from turnwise.envs.swe.patch import make_patch
from turnwise.envs.swe.task import FilesRepository, FolderRepository, ImageRepository, SweLimits
from turnwise.envs.types import EndReason, call


async def refusal(open_task, task) -> str:
    """Why an episode of a task does not start."""
    async with open_task(task) as session:
        with pytest.raises(EpisodeFailed) as failed:
            await session.reset()
    assert failed.value.end is EndReason.ENV_ERROR
    return str(failed.value)


async def test_a_baseline_that_is_not_green_is_named(make, open_task) -> None:
    task = make(
        verified=False,
        fail_to_pass=("test_hidden.py::test_double",),
        pass_to_pass=("test_hidden.py::test_half", "test_hidden.py::test_missing"),
    )
    for _ in range(2):
        said = await refusal(open_task, task)
        assert "task double: test_hidden.py::test_missing fails before any change (1 such)" in said
    said = await refusal(
        open_task, make(verified=False, fail_to_pass=("test_hidden.py::test_half",), pass_to_pass=())
    )
    assert "test_hidden.py::test_half passes before any change" in said


async def test_a_baseline_that_is_as_it_says_is_played(make, open_task) -> None:
    async with open_task(make(verified=False)) as session:
        assert (await session.reset()).text


async def test_a_reference_that_does_not_heal_is_named(make, open_task) -> None:
    other = make_patch({"calc.py": BROKEN.encode()}, {"calc.py": BROKEN.replace("x + 1", "x + 3").encode()})
    said = await refusal(open_task, make(verified=False, patch=other))
    assert "test_hidden.py::test_double does not pass with the reference repair (1 such)" in said
    absent = make(verified=False, fail_to_pass=("test_hidden.py::test_absent",))
    assert "test_absent does not pass with the reference" in await refusal(open_task, absent)


async def test_tests_that_hang_before_any_change_are_named(make, open_task) -> None:
    hidden = {"test_hidden.py": "while True: pass\n"}
    task = make(verified=False, hidden=hidden, limits=SweLimits(test_seconds=1))
    assert "its tests take over 1 s" in await refusal(open_task, task)


async def test_a_repair_that_lies_about_is_found(make, open_task) -> None:
    text = "".join(f"def helper_{i}(x):\n    return x * {i}\n" for i in range(3))
    files = make().repository.files | {"calc.py.orig": f"{make().repository.files['calc.py']}{text}"}
    patch = "--- a/calc.py\n+++ b/calc.py\n@@ -5,2 +5,8 @@\n def half(x):\n     return x / 2\n"
    patch += "".join(f"+{line}\n" for line in text.splitlines())
    task = make(repository=FilesRepository(files=files), patch=patch)
    assert "calc.py.orig of its repository holds the repair" in await refusal(open_task, task)


async def test_a_hidden_test_in_the_repository_is_found(make, open_task) -> None:
    files = make().repository.files | {"old/copy.py": make().hidden["test_hidden.py"]}
    said = await refusal(open_task, make(repository=FilesRepository(files=files)))
    assert "old/copy.py of its repository holds the repair" in said


async def test_an_empty_repository_is_named(make, open_task) -> None:
    task = make(repository=FilesRepository(files={}), patch="")
    assert "its repository is empty" in await refusal(open_task, task)


async def test_a_folder_that_has_gone_is_named(make, open_task, tmp_path: Path) -> None:
    task = make(repository=FolderRepository(path=str(tmp_path / "gone")))
    assert "its repository is empty" in await refusal(open_task, task)


async def test_an_image_that_has_gone_is_no_fault_of_the_agent(make, open_task, tmp_path: Path) -> None:
    task = make(repository=ImageRepository(image="me/calc", root=str(tmp_path / "gone")))
    async with open_task(task) as session:
        with pytest.raises(EpisodeFailed) as failed:
            await session.reset()
    assert failed.value.end in (EndReason.ENV_ERROR, EndReason.INFRA_ERROR)


async def test_files_that_do_not_fit_are_named(make, open_task) -> None:
    files = make().repository.files | {"big.txt": "x" * (20 << 20)}
    task = make(repository=FilesRepository(files=files), limits=SweLimits(disk_mb=16))
    assert "its files do not fit into limits.disk_mb" in await refusal(open_task, task)


async def test_a_patch_that_does_not_apply_is_named(make, open_task) -> None:
    task = make(patch=make().patch.replace("x + 1", "y + 1"))
    async with open_task(task) as session:
        await session.reset()
        step = await session.step(call("view", path="calc.py"))
        assert step.end is EndReason.ENV_ERROR
        assert step.record is not None
        assert "task double: its patch does not apply: calc.py: line 1" in step.record.error


async def test_a_sandbox_that_shows_the_host_is_refused(make) -> None:
    task = make().task("swe/tasks", 0)
    async with LocalEnvs(backend="process") as envs, envs.open("swe/tasks", task=task) as session:
        with pytest.raises(EpisodeFailed, match="use a backend that isolates"):
            await session.reset()


async def test_the_rest_goes_on(make, open_task) -> None:
    await refusal(open_task, make(repository=FilesRepository(files={}), patch=""))
    async with open_task(make()) as session:
        await session.reset()
        await session.step(call("replace", path="calc.py", old="x + 1", new="x + x"))
        await session.step(call("submit"))
        assert session.score == 1.0
