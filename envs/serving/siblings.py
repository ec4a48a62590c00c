"""The worker processes of one server, which tell each other how they are doing.

Each listens on a Unix socket in a folder of the server's own, which only its user may enter. Asked for a
report it gives it; asked to close a session it says whether it was this worker's; a call for a session of
its own, which came in elsewhere, it answers. So whichever worker an operator reaches can answer for the
whole server. A worker that does not answer is down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from turnwise.envs.serving.faults import MAX_FRAME
from turnwise.envs.serving.routing import Place
from turnwise.envs.serving.status import Report

ANSWER_SECONDS = 2.0
CLOSE_SECONDS = 60.0
"""How long a worker may take to close a session."""
CALL_SECONDS = 4 * 3600.0
"""How long a call may take that is answered elsewhere, where it has a deadline of its own."""
SUFFIX = ".sock"
REPORT = "report"
CLOSE = "close"
CALL = "call"
CLOSED = b"closed"

Answer = Callable[[str], Awaitable[bytes]]


class Siblings:
    """The workers beside the one of this ``place``, from ``async with`` on.

    ``report`` makes this worker's; ``close`` closes a session and says whether there was one.
    """

    def __init__(
        self, place: Place, report: Callable[[], Report], close: Callable[[str], Awaitable[bool]]
    ) -> None:
        self._place, self._report, self._close = place, report, close
        self.answer_call: Answer | None = None
        """Answers a call that came in elsewhere."""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._place.folder is not None:
            path = self._path(self._place.folder, self._place.index)
            path.unlink(missing_ok=True)  # of one before this, which died
            server = await asyncio.start_unix_server(self._tell, path, limit=2 * MAX_FRAME)
            await self._stack.enter_async_context(server)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def reports(self) -> tuple[list[Report], list[int]]:
        """The reports of all workers, this one's among them, and the numbers of those that are down."""
        others = self._place.siblings
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self._ask(worker, REPORT, ANSWER_SECONDS)) for worker in others]
        told, down = [self._report()], []
        for worker, task in zip(others, asked, strict=True):
            try:
                told.append(Report.model_validate_json(task.result()))
            except ValidationError:
                down.append(worker)
        return sorted(told, key=lambda report: report.worker), down

    async def close(self, session: str) -> bool:
        """Close a session of another worker; whether one had it."""
        for worker in self._place.siblings:
            if await self._ask(worker, f"{CLOSE} {session}", CLOSE_SECONDS) == CLOSED:
                return True
        return False

    def has(self, worker: int | None) -> bool:
        """Whether there is another worker of that number."""
        return worker in self._place.siblings

    async def call(self, worker: int, line: str) -> bytes:
        """What another worker answers to a call; nothing where it is down."""
        return await self._ask(worker, f"{CALL} {line}", CALL_SECONDS)

    def _path(self, folder: Path, worker: int) -> Path:
        return folder / f"{worker}{SUFFIX}"

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                asked, _, argument = (await reader.readline()).decode().rstrip("\n").partition(" ")
                if asked == REPORT:
                    writer.write(self._report().model_dump_json().encode())
                elif asked == CLOSE and await self._close(argument):
                    writer.write(CLOSED)
                elif asked == CALL and self.answer_call is not None:
                    writer.write(await self.answer_call(argument))
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, ValueError):  # the last for a line that is too long
            writer.transport.abort()

    async def _ask(self, worker: int, words: str, seconds: float) -> bytes:
        """What another worker says; nothing where it is down."""
        assert self._place.folder is not None
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_unix_connection(self._path(self._place.folder, worker))
                try:
                    writer.write(f"{words}\n".encode())
                    return await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return b""
