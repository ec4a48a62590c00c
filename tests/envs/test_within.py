"""A deadline for what waits: cut off in time, and nobody else's time-out or cancellation is taken for it."""

from __future__ import annotations

import asyncio

import pytest

from turnwise.envs.within import Overdue, within


async def test_what_does_not_wait_is_not_timed() -> None:
    async def work() -> int:
        return 3

    assert await within(0.0, work()) == 3


async def test_what_waits_ends_with_its_result_through_many_waits() -> None:
    async def work() -> list[int]:
        seen = []
        for number in range(5):
            await asyncio.sleep(0)
            seen.append(await asyncio.to_thread(int, number))
        return seen

    assert await within(20.0, work()) == [0, 1, 2, 3, 4]


async def test_what_takes_too_long_is_cancelled_where_it_waits() -> None:
    cleaned = False

    async def work() -> None:
        nonlocal cleaned
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned = True

    with pytest.raises(Overdue, match=r"longer than 0\.01 s"):
        await within(0.01, work())
    assert cleaned


async def test_errors_and_time_outs_of_the_works_own_stay_what_they_are() -> None:
    async def fail(early: bool) -> None:
        if not early:
            await asyncio.sleep(0)
        raise TimeoutError("its own")

    for early in (True, False):
        with pytest.raises(TimeoutError, match="its own"):
            await within(20.0, fail(early))


async def test_an_error_that_it_waits_for_reaches_the_work_which_may_go_on() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work() -> str:
        try:
            await future
        except ValueError as error:
            await asyncio.sleep(0)
            return f"handled {error}"
        return "not raised"

    asyncio.get_running_loop().call_soon(future.set_exception, ValueError("x"))
    assert await within(20.0, work()) == "handled x"


async def test_cancelling_who_waits_is_no_time_out() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(within(20.0, work()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
