"""What a sandbox stands on: the host's /usr, or a root of its own that is never written to."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from turnwise.sandbox import Match, SandboxSpec
from turnwise.sandbox.namespaces import NamespacesBackend

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[NamespacesBackend]:
    async with NamespacesBackend().running() as running:
        yield running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An extracted root of a few files."""
    for name in ("bin", "etc", "usr"):
        (tmp_path / "root" / name).mkdir(parents=True)
    (tmp_path / "root" / "etc" / "release").write_text("small")
    return tmp_path / "root"


async def test_an_extracted_root_is_copied_on_write(backend: NamespacesBackend, root: Path) -> None:
    async with await backend.create(SandboxSpec(root=root)) as sandbox:
        assert await sandbox.read("/etc/release") == b"small"
        assert await sandbox.list("/usr") == ()
        await sandbox.write("/etc/release", b"changed")
        snapshot = await sandbox.snapshot()
        await sandbox.recycle()
        assert await sandbox.read("/etc/release") == b"small"
        assert (await sandbox.exec(["/bin/sh"])).exit_code == 127
        async with await backend.fork(snapshot) as fork:
            assert await fork.read("/etc/release") == b"changed"
    assert (root / "etc" / "release").read_text() == "small"
    assert sorted(os.listdir(root)) == ["bin", "etc", "usr"]


async def test_a_root_extracted_anew_is_the_new_one(backend: NamespacesBackend, root: Path) -> None:
    spec = SandboxSpec(root=root)
    async with await backend.create(spec) as sandbox:
        assert await sandbox.read("/etc/release") == b"small"
    shutil.move(root, root.with_name("old"))
    shutil.copytree(root.with_name("old"), root)
    (root / "etc" / "release").write_text("new")
    async with await backend.create(spec) as sandbox:
        assert await sandbox.read("/etc/release") == b"new"


async def test_a_snapshot_brings_its_root_along(backend: NamespacesBackend, root: Path) -> None:
    """Restored to a sandbox on another root; which on recycling has its own again."""
    async with await backend.create(SandboxSpec(root=root)) as sandbox:
        await sandbox.write("file", b"kept")
        snapshot = await sandbox.snapshot()
    async with await backend.create(SandboxSpec()) as sandbox:
        await sandbox.restore(snapshot)
        assert await sandbox.read("/etc/release") == b"small"
        assert await sandbox.read("file") == b"kept"
        second = await sandbox.snapshot()
        async with await backend.fork(second) as fork:
            assert await fork.read("/etc/release") == b"small"
        await sandbox.recycle()
        assert (await sandbox.exec("cat /etc/hostname")).stdout == b"sandbox\n"


async def test_a_root_that_is_not_there_is_told_and_harms_nobody(
    backend: NamespacesBackend, root: Path
) -> None:
    async with await backend.create(SandboxSpec()) as sandbox:
        for _ in range(3):
            with pytest.raises(FileNotFoundError, match="absent"):
                await backend.create(SandboxSpec(root=root / "absent"))
            with pytest.raises(NotADirectoryError, match="release"):
                await backend.create(SandboxSpec(root=root / "etc" / "release"))
        await sandbox.recycle()
        assert (await sandbox.exec("echo alive")).stdout == b"alive\n"


async def test_the_hosts_secrets_are_not_there(backend: NamespacesBackend) -> None:
    """Of the host there is /usr and what its programs need of /etc."""
    async with await backend.create(SandboxSpec()) as sandbox:
        names = {entry.name for entry in await sandbox.list("/etc")}
        assert names <= {"alternatives", "group", "hostname", "hosts", "ld.so.cache", "localtime"} | {
            "mime.types",
            "nsswitch.conf",
            "pam.d",
            "passwd",
            "pki",
            "ssl",
        }
        keys = await sandbox.exec("find /etc -name private -o -name '*.key'")
        assert keys.stdout == b""
        assert os.uname().nodename.encode() not in await sandbox.read("/etc/hosts")
        mounts = (await sandbox.exec("cat /proc/self/mounts")).stdout.decode()
        kinds = [line.split()[1:3] for line in mounts.splitlines()]
        assert {place for place, kind in kinds if kind == "proc"} == {"/proc"}
        devices = {"/dev", *(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty"))}
        assert {place for place, _ in kinds} == {"/", "/proc", "/usr", "/dev/pts", *devices}


async def test_programs_are_found_in_the_path_that_is_given(backend: NamespacesBackend) -> None:
    async with await backend.create(SandboxSpec()) as sandbox:
        await sandbox.write("/opt/tools/tool", b"#!/bin/sh\necho found\n", mode=0o755)
        assert (await sandbox.exec(["tool"])).exit_code == 127
        assert (await sandbox.exec(["tool"], env={"PATH": "/opt/tools:/usr/bin"})).stdout == b"found\n"


async def test_a_search_passes_over_what_it_may_not_read(backend: NamespacesBackend) -> None:
    async with await backend.create(SandboxSpec()) as sandbox:
        await sandbox.write_tree({"a/open": b"x\n", "b/closed": b"x\n", "c/open": b"a\n\n" + b"x" * 200000})
        await sandbox.exec("chmod 000 b; ln -s /workspace/a link; touch d; chmod 000 d")
        long = Match("/workspace/c/open", 3, "x" * 65536)
        assert await sandbox.search("x", limit=2) == (Match("/workspace/a/open", 1, "x"), long)
        with pytest.raises(PermissionError):
            await sandbox.search("x", "d")
