"""What a worker asks the others of its server: the sessions of all, or to close one that is not its own.

Every worker also listens on a Unix socket in a folder that only this user can enter. A request that concerns
the whole server is sent on to the others as it came, token included, with a mark that it is to be answered
for one worker alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector, web

from turnwise.envs.routing import Place

MARK = "Turnwise-Sibling"
SECONDS = 10.0
"""How long one may take to answer; without an answer it is passed over."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What another worker answered."""

    status: int
    body: bytes


class Siblings:
    """The other workers, from ``async with`` to its end."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._clients: list[ClientSession] = []
        self._stack = AsyncExitStack()

    @staticmethod
    def path(folder: Path, index: int) -> Path:
        """Where a worker listens for the others."""
        return folder / f"{index}.sock"

    async def __aenter__(self) -> Self:
        folder, own = self._place.folder, self._place.index
        for index in range(self._place.workers) if folder is not None else ():
            if index != own and folder is not None:
                client = ClientSession(
                    connector=UnixConnector(str(self.path(folder, index))), timeout=ClientTimeout(SECONDS)
                )
                self._clients.append(await self._stack.enter_async_context(client))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def ask(self, request: web.Request) -> Sequence[Answer]:
        """The same of every other worker that answers; nothing where the request came from one of them."""
        if MARK in request.headers:
            return ()
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self._ask(client, request)) for client in self._clients]
        return tuple(answer for task in asked if (answer := task.result()) is not None)

    async def _ask(self, client: ClientSession, request: web.Request) -> Answer | None:
        headers = {MARK: "1", "Host": request.host}
        headers |= {name: value for name, value in request.headers.items() if name == "Authorization"}
        url = f"http://{request.host}{request.path_qs}"
        try:
            async with client.request(request.method, url, headers=headers) as response:
                return Answer(response.status, await response.read())
        except (ClientError, OSError, TimeoutError):
            return None  # just being replaced
