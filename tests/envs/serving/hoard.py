"""What the tests of memory share: an environment that keeps what it is told to."""

from __future__ import annotations

import asyncio
import os
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest

from turnwise.envs.env import Env
from turnwise.envs.registry import register
from turnwise.envs.serving.client import RemoteSession
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.tasks import TaskSet
from turnwise.envs.tool import tool
from turnwise.envs.types import AgentView, EpisodeLimits, Task, TaskRef, TaskSecret, call, text
from turnwise.sandbox.contract import MiB

BOUND = 16 * MiB


def some(number: int, size: int = MiB) -> list[bytes]:
    """Pieces of memory, none of which is another."""
    return [os.urandom(16) + bytes(size - 16) for _ in range(number)]


OF_THE_MODULE = some(50)


@cache
def of_the_source() -> tuple[Task, ...]:
    gold = TaskSecret(data={"gold": "x" * 50 * MiB})
    refs = [TaskRef(env="test/hoard", id=f"train/{seed}", seed=seed) for seed in range(3)]
    return tuple(Task(ref=ref, secret=gold) for ref in refs)


class Waking(np.ndarray[Any, Any]):
    """When it is weighed something happens, of which it then holds the result."""

    @property
    def base(self) -> Any:
        return Hoard.meanwhile()


@register
class Hoard(Env):
    """Keeps what it is told to, beside what every session shares."""

    name = "test/hoard"
    limits = EpisodeLimits(turns=10_000)
    of_the_class: ClassVar[list[bytes]] = some(50)
    latest: ClassVar[Hoard]
    hanging: ClassVar[asyncio.Event]

    @staticmethod
    def meanwhile() -> object:
        """What happens in the middle of a weighing (see :class:`Waking`)."""
        return None

    def tasks(self, split: str) -> TaskSet:
        return TaskSet("train", 3, lambda index, env: of_the_source()[index])

    async def reset(self, task: Task) -> AgentView:
        self.shared = [OF_THE_MODULE, self.of_the_class, task.secret]
        self.kept: list[Any] = []
        Hoard.latest = self  # that its class knows it makes it no less the session's
        return text("keep")

    @tool
    def keep(self, pieces: int) -> str:
        """Keep so many MiB more."""
        self.kept += some(pieces)
        return "kept"

    @tool
    async def hang(self, kept: bool) -> str:
        """Never returns, and keeps 20 MiB for it, or but works with them."""
        pieces = some(20)
        if kept:
            self.kept += pieces
        self.hanging.set()
        await asyncio.Event().wait()
        return ""

    async def grade(self) -> float:
        return 1.0


async def refused(env: RemoteSession) -> ServerFailed:
    """Why a session takes no more steps."""
    with pytest.raises(ServerFailed) as failure:
        await env.step(call("keep", pieces=0))
    return failure.value
