"""What a sandbox is made of: the user's image, however little is in it, or an extracted root."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from turnwise.sandbox import ExecResult, Match, Sandbox, SandboxSpec
from turnwise.sandbox.docker import DockerBackend, closure

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_image_with_nothing_but_a_shell_will_do(backend: DockerBackend, shell_only: str) -> None:
    async with await backend.create(SandboxSpec(image=shell_only)) as sandbox:
        assert (await sandbox.exec(["python3"])).exit_code == 127
        assert await sandbox.exec("echo $0; read x; echo $x >&2", stdin=b"in\n") == ExecResult(
            0, b"/bin/sh\n", b"in\n"
        )
        await sandbox.write_tree({"a/b": b"needle\n", "c": bytes(range(256))})
        assert await sandbox.read("c") == bytes(range(256))
        assert await sandbox.search("need") == (Match("/workspace/a/b", 1, "needle"),)
        assert await sandbox.read_tree("/workspace/a") == {"b": b"needle\n"}
        assert (await sandbox.exec("while :; do :; done", timeout=0.5)).timed_out
        await sandbox.shell('cd a; export NAME="it\'s \\$1\nhere"; plain=1')
        async with await backend.fork(await sandbox.snapshot()) as fork:
            for box in (sandbox, fork):
                told = (await box.shell('echo "$PWD $NAME _$plain"')).stdout
                assert told == b"/workspace/a it's $1\nhere _\n"
            await fork.delete("a/b")
            assert await sandbox.read("a/b") == b"needle\n"


async def test_an_image_that_the_engine_lacks_is_named_with_a_remedy(backend: DockerBackend) -> None:
    with pytest.raises(ValueError, match=r"spec\.image: 'no/such:image' is not there.*docker pull"):
        await backend.create(SandboxSpec(image="no/such:image"))


async def test_an_image_and_a_root_are_one_too_many(backend: DockerBackend, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of the two"):
        await backend.create(SandboxSpec(image="image", root=tmp_path))


async def test_a_root_that_is_no_directory(backend: DockerBackend, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError):
        await backend.create(SandboxSpec(root=tmp_path / "absent"))
    with pytest.raises(NotADirectoryError):
        await backend.create(SandboxSpec(root=tmp_path / "file"))


@pytest.fixture
def extracted(tmp_path: Path) -> Path:
    """A root with a shell, and a mark that no other has."""
    loader, libraries = closure.libraries([Path("/bin/sh")])
    for path in (Path("/bin/sh"), loader, *libraries):
        target = tmp_path / str(path).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/mark").write_text(os.urandom(8).hex())
    return tmp_path


async def test_an_extracted_root_is_run_on_and_imported_once(
    backend: DockerBackend, engine: Any, extracted: Path
) -> None:
    spec = SandboxSpec(root=extracted)
    async with await backend.create(spec) as sandbox:
        assert await sandbox.read("/etc/mark") == (extracted / "etc/mark").read_bytes()
        assert (await sandbox.exec("echo x > /etc/mark")).exit_code != 0
        images = await asyncio.to_thread(engine.api.images, quiet=True)
        async with DockerBackend().running() as another, await another.create(spec) as again:
            assert await again.read("/etc/mark") == await sandbox.read("/etc/mark")
        assert sorted(await asyncio.to_thread(engine.api.images, quiet=True)) == sorted(images)


@pytest.fixture(scope="module")
def demanding(engine: Any, shell_only: str) -> str:
    """An image with an environment, a program, a user, a volume and a health check of its own."""
    container = engine.containers.create(shell_only, "none")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("data/held")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"kept"))
    container.put_archive("/", archive.getvalue())
    says = [
        "ENV GREETING=hello",
        "ENTRYPOINT /absent",
        "USER 4711",
        "VOLUME /data",
        "HEALTHCHECK CMD /absent",
    ]
    image = engine.api.commit(container.id, "localhost/turnwise-test-config", changes=says)
    container.remove()
    return str(image["Id"])


async def test_of_what_an_image_says_its_environment_and_files_hold(
    backend: DockerBackend, engine: Any, demanding: str
) -> None:
    volumes = await asyncio.to_thread(engine.api.volumes)
    async with await backend.create(SandboxSpec(image=demanding)) as sandbox:
        result = await sandbox.exec("echo $GREETING; read x < /data/held; echo $x; echo y > /data/new")
        assert result.stdout == b"hello\nkept\n"
        assert result.exit_code != 0
    assert await asyncio.to_thread(engine.api.volumes) == volumes


async def test_what_belongs_to_the_resident_is_closed_to_the_agent(sandbox: Sandbox) -> None:
    assert (await sandbox.exec("ls /.sandbox")).exit_code != 0
    with pytest.raises(PermissionError):
        await sandbox.read("/.sandbox/start.py")
