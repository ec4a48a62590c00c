"""A repository inside an image: played, followed and graded there, and nothing of its history is left."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from turnwise.envs.local import LocalEnvs
from turnwise.envs.swe.patch import make_patch
from turnwise.envs.swe.pytest_files import SITE, pytest_files
from turnwise.envs.swe.task import ImageRepository, SweTask
from turnwise.envs.types import call
from turnwise.sandbox import images

BROKEN = "def double(x):\n    return x + 1\n"
RIGHT = "def double(x):\n    return x + x\n"
TEST = "from calc import double\n\n\ndef test_five():\n    assert double(5) == 10\n"


class Testbed:
    """Programs of this machine, pytest in a place of its own, and a repository with a past."""

    __test__ = False

    def fill(self, root: Path, scratch: Path) -> str:
        images.Host(("sh", "python3", "find", "git")).fill(root, scratch)
        for path, data in pytest_files().items():
            place = root / "opt/env" / Path(path).relative_to(SITE)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        testbed = root / "testbed"
        testbed.mkdir()
        for text in (RIGHT, BROKEN):
            (testbed / "calc.py").write_text(text)
            for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
                identity = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
                subprocess.run(["git", *identity, "-C", testbed, *command], check=True)
        return "a testbed"


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweTask:
    monkeypatch.setenv("TURNWISE_IMAGES", str(tmp_path / "images"))
    images.Store().build("testbed", Testbed())
    return SweTask(
        id="double",
        issue="double(5) should be 10",
        repository=ImageRepository(
            image="testbed", root=str(images.find("testbed")), setup="export PYTHONPATH=$PYTHONPATH:/opt/env"
        ),
        patch=make_patch({"calc.py": BROKEN.encode()}, {"calc.py": RIGHT.encode()}),
        hidden={"test_calc.py": TEST},
        fail_to_pass=("test_calc.py::test_five",),
    )


async def test_a_task_in_an_image(envs: LocalEnvs, task: SweTask) -> None:
    async with envs.open("swe/tasks", task=task.task("swe/tasks", 0)) as session:
        await session.reset()
        look = "pwd; git log --all --oneline | wc -l; git status -s"
        seen = await session.step(call("shell", command=look))
        assert seen.view.text == "/testbed\n1"
        step = await session.step(call("shell", command="sed -i 's/x + 1/x + x/' calc.py"))
        assert step.record is not None
        assert step.record.milestones == ("opened_fault", "patched", "first_fixed", "visible_passed")
        await session.step(call("submit"))
        assert session.score == 1.0
