"""Closing what must be closed also when its closer is cancelled in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


async def to_the_end(work: Coroutine[object, object, None]) -> None:
    """Await ``work``, which has deadlines of its own. Who is cancelled meanwhile is cancelled when it ended.

    Half of an end loses the rest: nobody closes twice what says that it is closed.
    """
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    await task
    if cancelled:
        raise asyncio.CancelledError
