"""What the tests of leases share: an environment that adds up, and a server of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from turnwise.envs.env import Env
from turnwise.envs.registry import register
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import milestone, tool
from turnwise.envs.types import AgentView, EpisodeLimits, Task, text


@register
class Tally(Env):
    """Add numbers up. Some additions wait for a gate."""

    name = "test/tally"
    limits = EpisodeLimits(turns=1000)
    gate = asyncio.Event()
    waiting = asyncio.Event()
    """Somebody waits for the gate."""
    begun = 0

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 10)

    async def reset(self, task: Task) -> AgentView:
        self.numbers: list[int] = []
        return text("add")

    @tool
    async def add(self, n: int) -> str:
        """Add a number."""
        self.numbers.append(n)
        return str(self.numbers)

    @tool
    async def add_later(self, n: int) -> str:
        """Add a number when the gate opens."""
        type(self).begun += 1
        self.waiting.set()
        await self.gate.wait()
        return await self.add(n)

    @milestone
    def seven(self) -> bool:
        return 7 in self.numbers

    async def grade(self) -> float:
        return float(sum(self.numbers) % 2)

    async def digest(self) -> str:
        return str(self.numbers)


@asynccontextmanager
async def serving(lease: float = 1000.0, sessions: int = 8) -> AsyncIterator[EnvServer]:
    async with (
        asyncio.timeout(120),
        EnvServer(["test/tally"], port=0, lease=lease, sessions=sessions, patience=100.0) as server,
    ):
        yield server
