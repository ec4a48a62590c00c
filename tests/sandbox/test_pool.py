"""The pool: what is leased is pristine and alive, in fair order, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from turnwise.sandbox import (
    Pool,
    PoolMetrics,
    PoolTimeout,
    Sandbox,
    SandboxDied,
    SandboxError,
    SandboxSpec,
)
from turnwise.sandbox.process import ProcessBackend

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPEC = SandboxSpec()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[ProcessBackend]:
    async with ProcessBackend().running() as running:
        yield running


async def until(condition: Callable[[], bool]) -> None:
    """Let the pool work in the background until something holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the pool has no event for what it does unasked
            await asyncio.sleep(0.005)


async def test_a_lease_finds_nothing_of_the_one_before(backend: ProcessBackend) -> None:
    async with Pool(backend, SPEC, size=1) as pool:
        for n in range(3):
            async with pool.lease() as sandbox:
                assert await sandbox.list("/workspace") == ()
                assert (await sandbox.shell("echo _$left")).stdout == b"_\n"
                await sandbox.write(f"left{n}", b"")
                await sandbox.shell("left=1; sleep 1000 &")
        await until(lambda: pool.metrics.idle == 1)
        assert pool.metrics == PoolMetrics(in_use=0, idle=1, created=1, recycled=3, died=0)


async def test_leases_at_once_are_of_different_sandboxes(backend: ProcessBackend) -> None:
    async with Pool(backend, SPEC, size=3) as pool, pool.lease() as a, pool.lease() as b, pool.lease() as c:
        assert len({a.id, b.id, c.id}) == 3
        assert pool.metrics.in_use == 3


async def test_spares_are_made_before_anyone_asks(backend: ProcessBackend) -> None:
    async with Pool(backend, SPEC, size=4, spares=2) as pool:
        await until(lambda: pool.metrics.idle == 2)
        async with pool.lease():
            await until(lambda: pool.metrics.idle == 2)
            assert pool.metrics.created == 3


async def test_the_size_is_never_exceeded(backend: ProcessBackend) -> None:
    in_use = 0

    async def episode(pool: Pool) -> None:
        nonlocal in_use
        async with pool.lease() as sandbox:
            in_use += 1
            assert in_use <= 3
            await sandbox.write("file", b"")
            in_use -= 1

    async with Pool(backend, SPEC, size=3, spares=3) as pool:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(episode(pool))
        await until(lambda: pool.metrics.idle == 3)
        assert pool.metrics.created == 3
        assert pool.metrics.recycled == 20


async def test_who_waits_longest_is_served_first(backend: ProcessBackend) -> None:
    served: list[int] = []

    async def episode(pool: Pool, number: int) -> None:
        async with pool.lease():
            served.append(number)

    async with Pool(backend, SPEC, size=1) as pool, asyncio.TaskGroup() as tasks, pool.lease():
        for number in range(8):
            tasks.create_task(episode(pool, number))
            await asyncio.sleep(0)
    assert served == list(range(8))


async def test_a_wait_ends_at_its_deadline_and_costs_no_sandbox(backend: ProcessBackend) -> None:
    async with Pool(backend, SPEC, size=1) as pool:
        async with pool.lease():
            with pytest.raises(PoolTimeout, match="all 1 sandboxes"):
                await pool.acquire(deadline=0.05)
        async with pool.lease() as sandbox:
            assert (await sandbox.exec("echo works")).exit_code == 0
        assert pool.metrics.created == 1


async def test_a_sandbox_that_died_while_leased_is_replaced(backend: ProcessBackend) -> None:
    async with Pool(backend, SPEC, size=1) as pool:
        async with pool.lease() as first:
            await first.close()
        async with pool.lease() as second:
            assert (await second.exec("echo works")).exit_code == 0
        assert first is not second
        assert (pool.metrics.died, pool.metrics.created) == (1, 2)


async def test_a_sandbox_that_died_while_idle_is_never_handed_out(backend: ProcessBackend) -> None:
    async with Pool(backend, SPEC, size=2) as pool:
        first, second = await pool.acquire(), await pool.acquire()
        for sandbox in (first, second):
            await pool.release(sandbox)
        await until(lambda: pool.metrics.idle == 2)
        await first.close()
        await second.close()
        third = await pool.acquire()
        assert third not in (first, second)
        assert (await third.exec("echo works")).exit_code == 0
        assert pool.metrics.died == 2


async def test_one_who_is_cancelled_while_waiting_takes_nothing_along(backend: ProcessBackend) -> None:
    async with Pool(backend, SPEC, size=1) as pool:
        async with pool.lease():
            impatient = asyncio.create_task(pool.acquire())
            patient = asyncio.create_task(pool.acquire())
            await asyncio.sleep(0)
            impatient.cancel()
        await pool.release(await patient)
        with pytest.raises(asyncio.CancelledError):
            await impatient
        await until(lambda: pool.metrics.idle == 1)


async def test_a_cancelled_episode_gives_its_sandbox_back(backend: ProcessBackend) -> None:
    begun = asyncio.Event()

    async def episode(pool: Pool) -> None:
        async with pool.lease() as sandbox:
            begun.set()
            await sandbox.exec("sleep 1000")

    async with Pool(backend, SPEC, size=1) as pool:
        task = asyncio.create_task(episode(pool))
        await begun.wait()
        task.cancel()
        async with pool.lease() as sandbox:
            assert await sandbox.list("/workspace") == ()


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_cancelled_when_nothing_is_lost(backend: ProcessBackend, seed: int) -> None:
    chance = random.Random(seed)

    async def episode(pool: Pool) -> None:
        async with pool.lease() as sandbox:
            assert await sandbox.list("/workspace") == ()
            await sandbox.write("left", b"")
            if chance.random() < 0.2:
                await sandbox.close()

    async with Pool(backend, SPEC, size=3, spares=1) as pool:
        tasks = []
        for _ in range(40):
            tasks.append(asyncio.create_task(episode(pool)))
            await asyncio.sleep(chance.random() * 0.003)
            if chance.random() < 0.4:
                chance.choice(tasks).cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
        leases = [await pool.acquire(deadline=60) for _ in range(3)]
        assert len(set(leases)) == 3
        for sandbox in leases:
            await pool.release(sandbox)


async def test_closing_ends_everything(backend: ProcessBackend) -> None:
    pool = Pool(backend, SPEC, size=2)
    await pool.open()
    leased, other = await pool.acquire(), await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    running = asyncio.create_task(leased.exec("sleep 1000"))
    await asyncio.sleep(0)
    await pool.close()
    for task in (waiting, running):
        with pytest.raises(SandboxDied):
            await task
    for sandbox in (leased, other):
        with pytest.raises(SandboxDied):
            await sandbox.exec("true")
        await pool.release(sandbox)
    with pytest.raises(SandboxDied, match="closed"):
        await pool.acquire()
    await pool.close()


async def test_giving_back_twice_is_an_error(backend: ProcessBackend) -> None:
    async with Pool(backend, SPEC, size=2) as pool:
        sandbox = await pool.acquire()
        await pool.release(sandbox)
        with pytest.raises(ValueError, match=sandbox.id):
            await pool.release(sandbox)


class Exhausted(ProcessBackend):
    """A backend on a machine that has nothing left."""

    async def create(self, spec: SandboxSpec) -> Sandbox:  # type: ignore[override]
        raise SandboxError("no space left")


async def test_who_waits_learns_why_no_sandbox_can_be_made() -> None:
    async with Exhausted().running() as backend, Pool(backend, SPEC, size=2, spares=1) as pool:
        for _ in range(3):
            with pytest.raises(SandboxError, match="no space left"):
                await pool.acquire(deadline=60)


@pytest.mark.parametrize(("size", "spares"), [(0, 0), (2, 3), (1, -1)])
async def test_impossible_sizes_are_refused(backend: ProcessBackend, size: int, spares: int) -> None:
    with pytest.raises(ValueError, match="size, spares"):
        Pool(backend, SPEC, size=size, spares=spares)
