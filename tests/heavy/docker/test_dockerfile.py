"""An image of a Dockerfile, built by the Engine that DOCKER_HOST names. The base is made here too."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path

import pytest

from turnwise.sandbox import SandboxSpec
from turnwise.sandbox.images import Dockerfile, Host, ImageError, Store
from turnwise.sandbox.namespaces import NamespacesBackend

RECIPE = """
FROM scratch
COPY base /
RUN mkdir -p /opt && echo made >/opt/made && chmod 6755 /usr/bin/true
COPY note /opt/note
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def context(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a Dockerfile copies: the programs of this machine, and a note."""
    folder = tmp_path_factory.mktemp("context")
    store.build("base", Host(("sh", "python3")))
    store.find("base").rename(folder / "base")
    (folder / "note").write_text("noted\n")
    return folder


def in_the_engine() -> tuple[set[str], set[str]]:
    """Its images and containers."""
    client = importlib.import_module("docker").from_env(timeout=300)
    try:
        images, containers = client.images.list(all=True), client.containers.list(all=True)
        return {image.id for image in images}, {container.id for container in containers}
    finally:
        client.close()


async def test_what_it_makes_runs_and_the_engine_keeps_nothing(store: Store, context: Path) -> None:
    (context / "Recipe").write_text(RECIPE)
    before = await asyncio.to_thread(in_the_engine)
    image = await asyncio.to_thread(store.build, "made", Dockerfile(context / "Recipe"))
    assert image.source.startswith("Recipe in ")
    images, containers = await asyncio.to_thread(in_the_engine)
    assert (images - before[0], containers - before[1]) == (set(), set())
    root = await asyncio.to_thread(store.find, "made")
    spec = SandboxSpec(root=root)
    async with NamespacesBackend().running() as backend, await backend.create(spec) as sandbox:
        result = await sandbox.exec("cat /opt/made /opt/note /etc/hostname; find / -xdev -perm /6000")
        assert result.stdout == b"made\nnoted\nsandbox\n"
        assert (await sandbox.exec(["python3", "-c", "import json"])).exit_code == 0
        assert (await sandbox.exec("ls /.dockerenv /etc/resolv.conf")).stdout == b""


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("FROOM x\n", "unknown instruction"),
        ("FROM scratch\nCOPY absent /\n", "absent"),
        ("FROM scratch\nCOPY base /\nRUN exit 3\n", "non-zero code: 3"),
    ],
)
def test_what_the_engine_refuses_is_told_in_one_line(
    store: Store, context: Path, recipe: str, words: str
) -> None:
    (context / "Wrong").write_text(recipe)
    before = in_the_engine()[1]
    with pytest.raises(ImageError, match=words) as refusal:
        store.build("wrong", Dockerfile(context / "Wrong"))
    assert "\n" not in str(refusal.value)
    assert in_the_engine()[1] <= before
    assert "wrong" not in {image.name for image in store.images()}
