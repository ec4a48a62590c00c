"""What is gVisor's alone: limits that end more than a command, and are the agent's fault all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from turnwise.sandbox import Backend, LimitExceeded, Limits, MiB, Sandbox, SandboxSpec, backend

pytestmark = pytest.mark.asyncio(loop_scope="session")

BOMB = "bomb() { bomb | bomb & }; bomb & exec sleep 1000"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gvisor() -> AsyncIterator[Backend]:
    async with backend("docker:runsc").running() as running:
        yield running


async def alive(sandbox: Sandbox) -> bool:
    return (await sandbox.exec("echo alive")).stdout == b"alive\n"


async def test_it_is_gvisors_kernel_that_answers(gvisor: Backend) -> None:
    async with await gvisor.create(SandboxSpec()) as sandbox:
        mounts = (await sandbox.exec("cat /proc/mounts")).stdout
        assert b" / 9p " in mounts  # files that come from a process of gVisor's beside it
        assert (await sandbox.exec("cat /proc/sentry-meminfo")).exit_code == 0


async def test_memory_that_runs_out_ends_the_sandbox_and_is_the_agents_fault(gvisor: Backend) -> None:
    async with await gvisor.create(SandboxSpec(Limits(memory=64 * MiB))) as sandbox:
        for command in ("b'x' * (500 << 20)", "import os; os.fork(); os.fork(); b'x' * (120 << 20)"):
            with pytest.raises(LimitExceeded) as error:
                await sandbox.exec(["python3", "-c", command])
            assert error.value.resource == "memory"
            await sandbox.recycle()
            assert await alive(sandbox)


@pytest.mark.parametrize("processes", [40, 256])
async def test_a_fork_bomb_is_ended_as_the_agents_fault(gvisor: Backend, processes: int) -> None:
    async with await gvisor.create(SandboxSpec(Limits(processes=processes))) as sandbox:
        result = await sandbox.exec(["bash", "-c", BOMB], timeout=300)
        assert (result.exit_code, result.timed_out, result.limit) == (137, False, "processes")
        assert await alive(sandbox)


async def test_a_fork_bomb_left_behind_in_the_shell_is_ended_too(gvisor: Backend) -> None:
    async with await gvisor.create(SandboxSpec(Limits(processes=40))) as sandbox:
        await sandbox.shell("bomb() { sleep 0.2; bomb | bomb & }; bomb &")
        watch = (
            "for n in $(seq 300); do cat /proc/[0-9]*/comm | grep -q bash || exit 0; sleep 0.1; done; exit 1"
        )
        for _ in range(20):  # it may end the command that waits for its end
            if (await sandbox.exec(["sh", "-c", watch], timeout=300)).exit_code == 0:
                break
        else:
            pytest.fail("the bomb goes on")
        assert (await sandbox.shell("echo alive")).stdout == b"alive\n"


async def test_taking_the_hosts_threads_ends_the_sandbox_and_is_the_agents_fault(gvisor: Backend) -> None:
    churn = "for n in $(seq 60); do (while :; do (:) & (:) & (:) & wait; done) & done; sleep 1000"
    async with await gvisor.create(SandboxSpec(Limits(processes=256))) as sandbox:
        with pytest.raises(LimitExceeded) as error:
            await sandbox.exec(["bash", "-c", churn], timeout=600)
        assert error.value.resource == "processes"
        await sandbox.recycle()
        assert await alive(sandbox)


async def test_hundreds_of_commands_take_none_of_the_agents_memory(gvisor: Backend) -> None:
    """The kernel grows with them: what it takes must not count as the agent's."""
    async with await gvisor.create(SandboxSpec(Limits(memory=16 * MiB))) as sandbox:
        for _ in range(300):
            assert (await sandbox.exec("true")).exit_code == 0
