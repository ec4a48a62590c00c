"""Snapshots and forks of the namespaces backend: exact copies, however they are stacked."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from turnwise.sandbox import LimitExceeded, Limits, MiB, Sandbox, SandboxSpec, ShellSilent, Snapshot
from turnwise.sandbox.namespaces import NamespacesBackend, calls

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOOK = (Path(__file__).parent / "inside" / "look.py").read_text()
CHURN = (Path(__file__).parent / "inside" / "churn.py").read_text()
SPEC = SandboxSpec(Limits(output=16 * MiB))

MAKE = r"""
mkdir -p d/e g; echo one > d/e/f; chmod 4711 d/e/f; chmod 000 g; ln -s ../nowhere link; ln d/e/f hard
mkfifo pipe; truncate -s 1M sparse; touch -d 2001-02-03 old; rm /etc/hosts; rm -rf /var/tmp; echo x > /var/tmp
rm -rf /etc/alternatives; mkdir /etc/alternatives; echo x > /etc/alternatives/only; chmod 700 /etc
python3 -c "
import os, socket
os.setxattr('old', 'user.k', b'v'); os.setxattr('d', 'user.k', b'v'); socket.socket(1).bind('socket')"
"""
CHANGE = """
rm -rf d hard; mkdir d; echo new > d/only; chmod 755 g; rmdir g; echo file > g; rm link; mkdir link
rm /var/tmp; mkdir /var/tmp; echo y > /var/tmp/y; rm /etc/alternatives/only; echo 1 > sparse
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[NamespacesBackend]:
    async with NamespacesBackend().running() as running:
        yield running


async def files(sandbox: Sandbox) -> dict[str, Any]:
    """Every file with its type, mode, owner, links, time, content and attributes."""
    result = await sandbox.exec(["python3", "-c", LOOK])
    assert result.exit_code == 0, result
    return {key: value for key, value in json.loads(result.stdout).items() if key.startswith("file ")}


async def run(sandbox: Sandbox, script: str) -> None:
    result = await sandbox.exec(script)
    assert result.exit_code == 0, result


async def test_a_fork_is_an_exact_copy_and_neither_sees_the_other(backend: NamespacesBackend) -> None:
    async with await backend.create(SPEC) as parent:
        await run(parent, MAKE)
        before = await files(parent)
        snapshot = await parent.snapshot()
        assert await files(parent) == before
        await run(parent, CHANGE)
        changed = await files(parent)
        async with await backend.fork(snapshot) as fork, await backend.fork(snapshot) as second:
            assert await files(fork) == before
            await run(fork, "rm -rf /workspace/* /etc/alternatives; echo f > fork")
            assert await files(parent) == changed
            assert await files(second) == before
            for sandbox in (fork, parent):
                await sandbox.restore(snapshot)
                assert await files(sandbox) == before


async def churn(sandbox: Sandbox, *seed: int) -> str:
    """Change files at random, if told a seed; what is there then."""
    result = await sandbox.exec(["python3", "-c", CHURN, *map(str, seed)], env={"PYTHONHASHSEED": "0"})
    assert result.exit_code == 0, result
    return result.stdout.decode()


@pytest.mark.parametrize("lineage", [1, 2])
async def test_forks_of_forks_stay_exact_through_flattening(backend: NamespacesBackend, lineage: int) -> None:
    """Forty deep: more than twice as many layers as are kept before they are merged into one."""
    sandbox = await backend.create(SPEC)
    snapshots: list[Snapshot] = []
    looks: list[str] = []
    for depth in range(40):
        looks.append(await churn(sandbox, lineage * 1000 + depth))
        snapshots.append(await sandbox.snapshot())
        await sandbox.close()
        sandbox = await backend.fork(snapshots[-1])
    await sandbox.close()
    for depth in [*range(0, 40, 7), 15, 16, 17, 18, 32, 33, 34, 39]:
        async with await backend.fork(snapshots[depth]) as fork:
            assert (await churn(fork)).splitlines() == looks[depth].splitlines(), depth
    for snapshot in snapshots[:-1]:
        await backend.drop(snapshot)
    async with await backend.fork(snapshots[-1]) as last:
        assert await churn(last) == looks[-1]
    await backend.drop(snapshots[-1])


async def test_the_quota_counts_what_snapshots_hold(backend: NamespacesBackend) -> None:
    async with await backend.create(SandboxSpec(Limits(disk=20 * MiB))) as sandbox:
        await sandbox.write("first", bytes(12 * MiB))
        snapshot = await sandbox.snapshot()
        assert 12 * MiB <= snapshot.size < 13 * MiB
        with pytest.raises(LimitExceeded) as caught:
            await sandbox.write("second", bytes(12 * MiB))
        assert caught.value.resource == "disk"
        async with await backend.fork(snapshot) as fork:
            with pytest.raises(LimitExceeded):
                await fork.write("second", bytes(12 * MiB))
            await fork.write("third", bytes(4 * MiB))


async def test_a_snapshot_outlives_its_sandbox_and_its_siblings(backend: NamespacesBackend) -> None:
    async with await backend.create(SPEC) as parent:
        await parent.write("file", b"kept")
        snapshot = await parent.snapshot()
        await parent.recycle()
    others = [await backend.create(SPEC) for _ in range(5)]
    async with await backend.fork(snapshot) as fork:
        assert await fork.read("file") == b"kept"
        child = await fork.snapshot()
        await backend.drop(snapshot)
    async with await backend.fork(child) as grandchild:
        assert await grandchild.read("file") == b"kept"
    for other in others:
        await other.close()


async def test_many_forks_at_once(backend: NamespacesBackend) -> None:
    async with await backend.create(SPEC) as parent:
        await run(parent, MAKE)
        snapshot = await parent.snapshot()
        forks = await asyncio.gather(*(backend.fork(snapshot) for _ in range(20)))
        await asyncio.gather(*(fork.write("mine", b"%d" % n) for n, fork in enumerate(forks)))
        assert await asyncio.gather(*(fork.read("mine") for fork in forks)) == [b"%d" % n for n in range(20)]
        await asyncio.gather(*(fork.close() for fork in forks))


async def test_a_shell_that_does_not_tell_where_it_is_fails_the_snapshot_and_no_more(
    backend: NamespacesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "SHELL_DEADLINE", 0.1)
    async with await backend.create(SPEC) as sandbox:
        await sandbox.shell("cd /tmp; trap 'while [ -e /tmp/silent ]; do sleep 0.01; done' DEBUG")
        await sandbox.write("/tmp/silent", b"")
        with pytest.raises(ShellSilent, match=r"directory and variables in 0\.1 s"):
            await sandbox.snapshot()
        await sandbox.delete("/tmp/silent")
        assert (await sandbox.shell("pwd")).stdout == b"/workspace\n"
        monkeypatch.undo()
        await sandbox.snapshot()


async def test_an_exposed_endpoint_stays_through_snapshot_and_restore(backend: NamespacesBackend) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read(100)).upper())
        writer.close()
        await writer.wait_closed()

    connect = "import socket; s = socket.socket(1); s.connect('api'); s.sendall(b'hello'); "
    ask = ["python3", "-c", connect + "print(s.recv(99).decode())"]
    with tempfile.TemporaryDirectory() as folder:
        endpoint = Path(folder, "endpoint")
        async with await asyncio.start_unix_server(shout, endpoint), await backend.create(SPEC) as sandbox:
            await sandbox.expose(endpoint, "/workspace/api")
            assert (await sandbox.exec(ask)).stdout == b"HELLO\n"
            snapshot = await sandbox.snapshot()
            assert (await sandbox.exec(ask)).stdout == b"HELLO\n"
            await sandbox.restore(snapshot)
            assert (await sandbox.exec(ask)).stdout == b"HELLO\n"
            async with await backend.fork(snapshot) as fork:
                assert (await fork.exec(ask)).exit_code != 0
                await fork.expose(endpoint, "/workspace/api")
                assert (await fork.exec(ask)).stdout == b"HELLO\n"
