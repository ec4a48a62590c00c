"""A deadline that costs nothing to whoever does not wait.

``asyncio.timeout`` sets a timer before anything is known of the work. Most calls of an environment do not
wait for anything: then there is nothing to time, and the timer is most of what the call costs.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

Result = TypeVar("Result")


class Overdue(Exception):
    """The work took too long and was cancelled."""


async def within(seconds: float, work: Coroutine[Any, Any, Result]) -> Result:
    """Await the work; from when it first waits it has so many seconds. Raises :class:`Overdue`; a
    ``TimeoutError`` of the work's own stays one."""
    result: Result
    try:
        first = work.send(None)
    except StopIteration as done:
        result = done.value
        return result
    try:
        async with asyncio.timeout(seconds) as clock:
            result = await go_on(work, first)
        return result
    except TimeoutError:
        if clock.expired():
            raise Overdue(f"took longer than {seconds:g} s") from None
        raise


@types.coroutine
def go_on(work: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    """Await the rest of a coroutine that was started by hand (``send(None)``) and waits for something."""
    try:
        while True:
            try:
                given = yield waits_for
            except BaseException as error:  # noqa: BLE001  whatever it is, it is the work's
                waits_for = work.throw(error)
            else:
                waits_for = work.send(given)
    except StopIteration as done:
        return done.value
