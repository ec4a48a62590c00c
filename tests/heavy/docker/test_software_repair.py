"""Which tasks of software repair containers are refused for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from turnwise.envs.local import LocalEnvs
from turnwise.envs.session import EpisodeFailed
from turnwise.envs.swe.patch import make_patch
from turnwise.envs.swe.task import ImageRepository, SweTask
from turnwise.sandbox import images
from turnwise.sandbox.docker import DockerBackend

pytestmark = pytest.mark.asyncio(loop_scope="session")

BROKEN, RIGHT = "def double(x):\n    return x + 1\n", "def double(x):\n    return x + x\n"


@pytest_asyncio.fixture(loop_scope="session")
async def envs() -> AsyncIterator[LocalEnvs]:
    async with LocalEnvs(backend=os.environ.get("TURNWISE_TEST_BACKENDS", "docker")) as envs:
        yield envs


class Testbed:
    """A repository in an image."""

    __test__ = False

    def fill(self, root: Path, scratch: Path) -> str:
        images.Host(("sh", "python3")).fill(root, scratch)
        (root / "testbed").mkdir()
        (root / "testbed/calc.py").write_text(BROKEN)
        return "a testbed"


async def test_a_repository_inside_an_image_is_refused_by_name(
    envs: LocalEnvs, backend: DockerBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNWISE_IMAGES", str(tmp_path / "images"))
    await asyncio.to_thread(images.Store().build, "testbed", Testbed())
    task = SweTask(
        id="double",
        issue="double(5) should be 10",
        repository=ImageRepository(image="testbed", root=str(images.find("testbed"))),
        patch=make_patch({"calc.py": BROKEN.encode()}, {"calc.py": RIGHT.encode()}),
        hidden={"test_calc.py": "def test_five():\n    import calc\n    assert calc.double(5) == 10\n"},
        fail_to_pass=("test_calc.py::test_five",),
    )
    async with envs.open("swe/tasks", task=task.task("swe/tasks", 0)) as session:
        with pytest.raises(EpisodeFailed, match=r"/testbed of its image cannot be written to.*namespaces"):
            await session.reset()
