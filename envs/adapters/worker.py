"""An event loop in a thread of its own, for callers that are not async.

The thread holds one asynchronous resource open from its beginning to its end, and carries out coroutines
beside it. So the resource has one owner, whoever calls, also where the caller's own thread runs an event
loop, as in a notebook.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from threading import Thread, current_thread
from typing import Any, Generic, NamedTuple, TypeVar

Resource = TypeVar("Resource")
Result = TypeVar("Result")


class Running(NamedTuple):
    """What the caller's thread needs of the loop's."""

    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event


class Worker(Generic[Resource]):
    """Starts when it is made; raises what opening the resource raises."""

    def __init__(self, resource: AbstractAsyncContextManager[Resource], name: str) -> None:
        self._started: Future[tuple[Running, Resource]] = Future()
        self._ended: Future[None] = Future()
        self._thread = Thread(target=self._work, args=(resource,), name=name, daemon=True)
        self._thread.start()
        self._running, self.resource = self._started.result()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Carry it out in the thread and wait for it; whatever ends the wait cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._running.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Close the resource and end the thread. Raises what closing raises; to be called once."""
        self._running.loop.call_soon_threadsafe(self._running.stop.set)
        if current_thread() is not self._thread:  # where a garbage collection may call
            self._thread.join()
            self._ended.result()

    def _work(self, resource: AbstractAsyncContextManager[Resource]) -> None:
        try:
            asyncio.run(self._hold(resource))
        except BaseException as error:  # noqa: BLE001  handed to whoever waits
            with contextlib.suppress(asyncio.InvalidStateError):
                self._started.set_exception(error)
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    async def _hold(self, resource: AbstractAsyncContextManager[Resource]) -> None:
        async with resource as opened:
            stop = asyncio.Event()
            self._started.set_result((Running(asyncio.get_running_loop(), stop), opened))
            await stop.wait()
