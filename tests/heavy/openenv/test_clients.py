"""OpenEnv's own clients against our server: both generations of it, ``validate``, MCP and verifiers.

Run by ``.ci/run openenv``, which makes the environments of the clients: one with ``openenv`` 0.10.0 and one
with 0.4.1 and verifiers, whose interpreters ``OPENENV_NEW`` and ``OPENENV_OLD`` name.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from turnwise.envs.env import Env
from turnwise.envs.registry import register
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import tool
from turnwise.envs.types import AgentView, EpisodeLimits, Task, text

PLAYS = Path(__file__).parent / "plays.py"
LONG = 7.0
"""Seconds of a step that outlasts what the clients give a ping."""


@register
class Sum(Env):
    """Add up to a number."""

    name = "test/sum"
    limits = EpisodeLimits(turns=20)

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 5)

    async def reset(self, task: Task) -> AgentView:
        self.total, self.goal = 0, task.rng.randint(3, 9)
        return text(f"reach {self.goal}")

    @tool
    async def add(self, n: int) -> str:
        """Add a number."""
        self.total += n
        return str(self.total)

    @tool
    async def wait(self) -> str:
        """Take long."""
        await asyncio.sleep(LONG)
        return "waited"

    @tool
    def broken(self) -> str:
        """A bug."""
        raise ZeroDivisionError("a bug")

    async def grade(self) -> float:
        return float(self.total == self.goal)


@asynccontextmanager
async def served(token: str | None = None) -> AsyncIterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("turnwise.envs.openenv.sockets.HOLD_SECONDS", 100.0)  # whom it refuses may be slow
        async with asyncio.timeout(600), EnvServer(["test/sum"], port=0, token=token, sessions=4) as server:
            yield server.url


async def play(python: str, case: str, url: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = await asyncio.create_subprocess_exec(
        *(os.environ[python], "-P", str(PLAYS), case, url),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@pytest.mark.parametrize(
    "case", ["validate", "episode", "sync", "mistakes", "many", "keepalive", "timeout", "crowd", "mcp"]
)
async def test_the_client(case: str) -> None:
    async with served() as url:
        await play("OPENENV_NEW", case, url)


async def test_the_client_with_a_token() -> None:
    async with served("secret-of-ours") as url:
        await play("OPENENV_NEW", "header", url)


@pytest.mark.parametrize("case", ["validate", "episode", "mistakes", "many", "keepalive", "crowd"])
async def test_the_client_of_the_first_generation(case: str) -> None:
    async with served() as url:
        await play("OPENENV_OLD", case, url)


async def test_verifiers() -> None:
    async with served() as url:
        await play("OPENENV_OLD", "verifiers", url)


async def test_under_a_path() -> None:
    async with served() as url:
        await play("OPENENV_NEW", "episode", f"{url}/openenv/test/sum")
        await play("OPENENV_NEW", "validate", f"{url}/openenv/test/sum")
        await play("OPENENV_NEW", "mcp", f"{url}/openenv/test/sum")
