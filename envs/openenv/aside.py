"""Sessions that last for one call: what OpenEnv's stateless routes run in.

They take no place, so that they are answered at capacity too, but only so many run at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from turnwise.envs.local import LocalEnvs
from turnwise.envs.openenv.messages import CallToolAction, OpenEnvAction, ResetData
from turnwise.envs.openenv.offer import Offer, Result
from turnwise.envs.openenv.player import choose, playable
from turnwise.envs.serving.service import Service
from turnwise.envs.serving.wire import SANDBOX_SECONDS
from turnwise.envs.session import Session

AT_ONCE = 8
"""So many run at a time."""


class Aside:
    """Carries out single calls. See the module."""

    def __init__(self, service: Service, envs: LocalEnvs) -> None:
        self._service, self._envs = service, envs
        self._places = asyncio.Semaphore(AT_ONCE)

    async def reset(self, offer: Offer, data: ResetData) -> Result:
        """Start an episode that nobody goes on with. Raises what the environment or its sandbox does."""
        async with self._session(offer, data) as session:
            view = await session.reset()
            return offer.opening(view, {"task": session.task.ref, "limits": session.limits})

    async def step(self, offer: Offer, action: OpenEnvAction) -> Result:
        """Carry out an action in a new episode."""
        if not isinstance(action, CallToolAction):
            return offer.listed()
        async with self._session(offer, ResetData()) as session:
            await session.reset()
            return offer.turn(action, playable(await session.step(offer.action(action))))

    @asynccontextmanager
    async def _session(self, offer: Offer, data: ResetData) -> AsyncIterator[Session]:
        task = await self._service.task(offer.spec, choose(offer, data))
        seconds = SANDBOX_SECONDS + 2 * task.public.limits.seconds
        async with (
            asyncio.timeout(seconds),
            self._places,
            self._envs.open(offer.spec, task=task) as session,
        ):
            yield session
