"""What an evaluation says its episodes ran in: the backend, and the image with its digest."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar

import pytest

from turnwise.agents.evaluate import evaluate
from turnwise.envs.env import Env
from turnwise.envs.registry import register
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import tool
from turnwise.envs.types import Action, AgentView, SandboxRecord, Task, call, text
from turnwise.sandbox.contract import SandboxSpec
from turnwise.sandbox.images import Store


class Reader(Env):
    """Read the file that the image has."""

    name = "test/reader"
    sandbox_spec: ClassVar[SandboxSpec | None] = SandboxSpec()

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 10)

    async def reset(self, task: Task) -> AgentView:
        self.read = b""
        return text("read it")

    @tool(submits=True)
    async def look(self) -> str:
        """Read the file."""
        self.read = await self.sandbox.read("/etc/release")
        return self.read.decode()

    async def grade(self) -> float:
        return float(self.read == b"mine")

    async def oracle(self) -> Action:
        return call("look")


register(Reader)


class Files:
    """An image of one file."""

    def fill(self, root: Path, scratch: Path) -> str:
        (root / "etc").mkdir()
        (root / "etc/release").write_text("mine")
        return "a file"


async def ran_in(
    spec: SandboxSpec | None, backend: str, monkeypatch: pytest.MonkeyPatch
) -> SandboxRecord | None:
    monkeypatch.setattr(Reader, "sandbox_spec", spec)
    return (await evaluate("test/reader", "scripted:oracle", tasks=2, backend=backend)).sandbox


async def test_an_image_is_recorded_by_name_and_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNWISE_IMAGES", str(tmp_path))
    store = Store()
    image = await asyncio.to_thread(store.build, "reader", Files())
    monkeypatch.setattr(
        Reader, "sandbox_spec", SandboxSpec(root=await asyncio.to_thread(store.find, "reader"))
    )
    result = await evaluate("test/reader", "scripted:oracle", tasks=2, backend="namespaces")
    assert result.success == 1.0
    assert result.sandbox == SandboxRecord(backend="namespaces", image="reader", digest=image.digest)


async def test_a_root_of_ones_own_is_recorded_by_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    record = await ran_in(SandboxSpec(root=tmp_path / "root"), "namespaces", monkeypatch)
    assert record == SandboxRecord(backend="namespaces", image=str(tmp_path / "root"))


async def test_without_an_image_the_backend_is_recorded_and_the_hosts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await ran_in(None, "process", monkeypatch) is None
    record = await ran_in(SandboxSpec(network=("a.test",)), "process", monkeypatch)
    assert record == SandboxRecord(backend="process", network=("a.test",))
