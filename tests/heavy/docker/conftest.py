"""Tests that need a Docker Engine: they run in the stage ``docker`` of continuous integration."""

from __future__ import annotations

import importlib
import io
import os
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from turnwise.sandbox import Sandbox, SandboxSpec
from turnwise.sandbox.backends import load
from turnwise.sandbox.docker import DockerBackend, closure


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """The docker package's own client, to look at what is there."""
    client = importlib.import_module("docker").from_env(timeout=300)
    yield client
    client.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backend() -> AsyncIterator[DockerBackend]:
    """As TURNWISE_TEST_BACKENDS names it, so that another runtime can be tested."""
    running = load(os.environ.get("TURNWISE_TEST_BACKENDS", "docker"))()
    assert isinstance(running, DockerBackend)
    async with running.running():
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def sandbox(backend: DockerBackend) -> AsyncIterator[Sandbox]:
    async with await backend.create(SandboxSpec()) as created:
        yield created


@pytest.fixture(scope="session")
def shell_only(engine: Any) -> str:
    """An image that holds a POSIX shell, what that loads, and nothing else."""
    loader, libraries = closure.libraries([Path("/bin/sh")])
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in (Path("/bin/sh"), loader, *libraries):
            entry = tarfile.TarInfo(str(path).lstrip("/"))
            entry.size, entry.mode = path.stat().st_size, 0o755
            tar.addfile(entry, io.BytesIO(path.read_bytes()))
    engine.api.import_image_from_data(archive.getvalue(), "localhost/turnwise-test-shell")
    return "localhost/turnwise-test-shell"
