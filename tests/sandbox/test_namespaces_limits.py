"""What an agent uses up is bounded, told apart from failures of ours, and costs only its own sandbox."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.sandbox.conftest import with_time
from turnwise.sandbox import LimitExceeded, Limits, MiB, Sandbox, SandboxSpec
from turnwise.sandbox.namespaces import NamespacesBackend

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = os.geteuid() == 0
"""An ordinary user has no cgroups: each process is bounded, and nothing tells which bound it met."""

SMALL = SandboxSpec(
    Limits(memory=96 * MiB, processes=40, cpus=0.5, disk=16 * MiB, file_size=8 * MiB, output=10000)
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[NamespacesBackend]:
    async with NamespacesBackend().running() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(backend: NamespacesBackend) -> AsyncIterator[Sandbox]:
    async with await backend.create(SMALL) as created:
        yield created
        assert (await created.exec("echo alive")).stdout == b"alive\n"
        assert (await created.shell("echo alive")).stdout == b"alive\n"


@pytest.mark.parametrize("way", ["exec", "shell"])
async def test_a_memory_bomb_ends_and_is_named(sandbox: Sandbox, way: str) -> None:
    run = sandbox.exec if way == "exec" else sandbox.shell
    result = await run("python3 -c 'x = b\"x\" * (400 << 20)'")
    assert (result.exit_code, result.limit) == ((137, "memory") if ROOT else (1, None))
    result = await run("exit 1" if way == "exec" else "false")
    assert (result.exit_code, result.limit) == (1, None)


async def test_a_fork_bomb_ends_and_is_named(sandbox: Sandbox) -> None:
    bomb = ["bash", "-c", "f() { f | f & }; f; exec sleep 1000"]
    result = await with_time(
        lambda seconds: sandbox.exec(bomb, timeout=seconds), lambda result: result.limit or not ROOT
    )
    assert (result.timed_out, result.limit) == (True, "processes" if ROOT else None)


async def test_a_fork_bomb_in_the_shell_leaves_room_for_the_resident(sandbox: Sandbox) -> None:
    await sandbox.shell("sh -c 'for n in $(seq 60); do sleep 1000 & done'")
    await sandbox.write("file", b"x")
    assert await sandbox.read("file") == b"x"
    result = await sandbox.exec("true")
    assert (result.exit_code, result.limit) == (126, "processes" if ROOT else None)
    await sandbox.recycle()


async def test_a_full_disk_is_the_agents_doing(sandbox: Sandbox) -> None:
    with pytest.raises(LimitExceeded) as caught:
        await sandbox.write("big", bytes(20 * MiB))
    assert caught.value.resource == "disk"
    result = await sandbox.exec("for n in 1 2 3; do head -c 7000000 /dev/zero > f$n; done")
    assert b"No space left" in result.stderr
    with pytest.raises(LimitExceeded):
        await sandbox.write_tree({"a": bytes(8 * MiB), "b": bytes(8 * MiB)})
    await sandbox.exec("rm -f *")
    await sandbox.write("again", bytes(8 * MiB))


async def test_many_small_files_fill_a_disk_too(sandbox: Sandbox) -> None:
    result = await sandbox.exec(["python3", "-c", "for n in range(100000): open(str(n), 'w').close()"])
    assert b"No space left" in result.stderr
    with pytest.raises(LimitExceeded):
        await sandbox.write("one-more", b"")
    await sandbox.recycle()


async def test_a_large_file_ends_its_writer_and_is_named(sandbox: Sandbox) -> None:
    result = await sandbox.exec("head -c 9000000 /dev/zero > big")
    assert (result.exit_code, result.limit) == (153, "file_size")
    assert (await sandbox.stat("big")).size == 8 * MiB


async def test_a_flood_of_output_is_cut_and_holds_nobody_up(sandbox: Sandbox) -> None:
    await sandbox.shell("yes &")
    result = await with_time(
        lambda seconds: sandbox.exec("yes", timeout=seconds), lambda result: result.truncated
    )
    assert (result.timed_out, result.truncated, len(result.stdout)) == (True, True, 10000)
    for number in range(20):
        result = await sandbox.shell(f"echo {number}")
        assert (result.exit_code, result.truncated) == (0, len(result.stdout) == 10000)
    await sandbox.recycle()


async def test_a_tree_is_read_up_to_a_limit(sandbox: Sandbox) -> None:
    await sandbox.write_tree({f"d/{n}": bytes(1000) for n in range(100)})
    assert len(await sandbox.read_tree("d", limit=100000)) == 100
    with pytest.raises(LimitExceeded):
        await sandbox.read_tree("d", limit=99999)


async def test_what_the_agent_closed_is_read_for_grading(sandbox: Sandbox) -> None:
    await sandbox.exec(
        "mkdir -p closed/inner; echo 1 > closed/inner/file; chmod 000 closed/inner/file closed"
    )
    with pytest.raises(PermissionError):
        await sandbox.read("closed/inner/file")
    assert await sandbox.read_tree("/workspace") == {"closed/inner/file": b"1\n"}


async def test_large_transfers_both_ways_at_once_do_not_lock(backend: NamespacesBackend) -> None:
    data = os.urandom(16 * MiB)
    async with await backend.create(SandboxSpec()) as sandbox:
        await asyncio.gather(*(sandbox.write(f"f{n}", data) for n in range(4)))
        calls = [sandbox.read(f"f{n}") for n in range(4)]
        writes = [sandbox.write(f"g{n}", data) for n in range(4)]
        results = await asyncio.gather(*calls, *writes)
        assert results[:4] == [data] * 4
        result = await sandbox.exec(["sh", "-c", "cat > out; wc -c < out"], stdin=data)
        assert int(result.stdout) == 16 * MiB


if ROOT:

    async def test_shared_memory_is_memory(sandbox: Sandbox) -> None:
        bomb = "import mmap; m = mmap.mmap(-1, 400 << 20); [m.write(bytes(1 << 20)) for _ in range(400)]"
        assert (await sandbox.exec(["python3", "-c", bomb])).limit == "memory"

    async def test_processor_time_is_bounded(sandbox: Sandbox) -> None:
        spin = (
            "timeout 1.5 sh -c 'while :; do :; done' & timeout 1.5 sh -c 'while :; do :; done' & wait; times"
        )
        result = await sandbox.shell(spin)
        minutes, seconds = result.stdout.decode().split()[2].rstrip("s").split("m")
        assert 60 * int(minutes) + float(seconds) < 1.5  # half a processor for 1.5 s; unbounded it would be 3
