"""The worker processes of one server, which tell each other how they are doing.

Each listens on a Unix socket in a folder of the server's own, which only its user may enter: who connects
gets the worker's report and the end of it. So whichever worker is asked can answer for the whole server.
A worker that does not answer is down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from turnwise.envs.status import Report

ANSWER_SECONDS = 2.0
SUFFIX = ".report"


class Siblings:
    """The workers in ``folder``, of which this is one, and without a folder alone; from ``async with`` on."""

    def __init__(self, report: Callable[[], Report], worker: int = 0, folder: Path | None = None) -> None:
        self._report, self._worker, self._folder = report, worker, folder
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._folder is not None:
            path = self._folder / f"{self._worker}{SUFFIX}"
            await self._stack.enter_async_context(await asyncio.start_unix_server(self._tell, path))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def reports(self) -> tuple[list[Report], list[int]]:
        """The reports of all workers, this one's among them, and the numbers of those that are down."""
        if self._folder is None:
            return [self._report()], []
        found = sorted(int(path.stem) for path in self._folder.glob(f"*{SUFFIX}"))
        others = [worker for worker in found if worker != self._worker]
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self._ask(worker)) for worker in others]
        answers = [self._report(), *(task.result() for task in asked)]
        told = sorted((report for report in answers if report is not None), key=lambda report: report.worker)
        up = {report.worker for report in told}
        return told, [worker for worker in others if worker not in up]

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                writer.write(self._report().model_dump_json().encode())
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError):
            writer.transport.abort()

    async def _ask(self, worker: int) -> Report | None:
        assert self._folder is not None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._folder / f"{worker}{SUFFIX}")
                try:
                    return Report.model_validate_json(await reader.read())
                finally:
                    writer.close()
        except (OSError, TimeoutError, ValidationError):
            return None
