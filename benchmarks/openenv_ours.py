"""Our side of ``benchmarks/openenv.py``: our server, and our own client as the load.

    python -P benchmarks/openenv_ours.py serve
    python -P benchmarks/openenv_ours.py load URL CLIENTS SECONDS

``serve`` prints its port. ``load`` opens its sessions over one connection, then does a round for every line
that it reads and answers with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack

from turnwise.cli.serve import calm_collector
from turnwise.envs.env import Env
from turnwise.envs.registry import register
from turnwise.envs.serving.client import RemoteEnvs, RemoteSession, connect
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import tool
from turnwise.envs.types import AgentView, EpisodeLimits, Task, call, text

TURNS = 100
"""Of an episode."""


class Null(Env):
    """One tool that does nothing, as OpenEnv's side has one action."""

    name = "benchmark/null"
    limits = EpisodeLimits(turns=TURNS + 1)

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 1000)

    async def reset(self, task: Task) -> AgentView:
        self.calls = 0
        return text("go")

    @tool
    async def nothing(self, n: int, word: str) -> str:
        """Do nothing."""
        self.calls += 1
        return "ok"

    async def grade(self) -> float:
        return 1.0


register(Null)


async def serve() -> None:
    """The server, until it is killed."""
    async with EnvServer([Null.name], port=0, sessions=4096) as server:
        calm_collector()
        print(server.port, flush=True)
        await asyncio.Event().wait()


class Player:
    """Plays one episode after another."""

    def __init__(self, envs: RemoteEnvs, first: int) -> None:
        self._envs, self._left = envs, first
        self._episode = AsyncExitStack()
        self._env: RemoteSession | None = None

    async def begin(self) -> RemoteSession:
        """Another episode."""
        await self._episode.aclose()
        self._env = await self._episode.enter_async_context(self._envs.open(Null.name))
        await self._env.reset()
        return self._env

    async def play(self, until: float, took: list[float]) -> None:
        """Step as fast as can be; how long each step took."""
        action, env = call("nothing", n=1, word="x"), self._env or await self.begin()
        before = time.perf_counter()
        while before < until:
            await env.step(action)
            now = time.perf_counter()
            took.append(now - before)
            self._left -= 1
            if self._left == 0:
                env = await self.begin()
                self._left, now = TURNS, time.perf_counter()
            before = now


async def load(url: str, clients: int, seconds: float) -> None:
    """Rounds of steps, every session as fast as it can."""
    async with connect(url) as envs:
        players = [
            Player(envs, 1 + number * TURNS // clients) for number in range(clients)
        ]  # not all begin at once
        for player in players:
            await player.begin()
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            took: list[float] = []
            began, spent = time.perf_counter(), time.process_time()
            await asyncio.gather(*(player.play(began + seconds, took) for player in players))
            wall = time.perf_counter() - began
            took.sort()
            figures = {
                "rate": len(took) / wall,
                "p50": 1e3 * took[len(took) // 2],
                "p99": 1e3 * took[len(took) * 99 // 100],
                "client_us": 1e6 * (time.process_time() - spent) / len(took),
                "steps": len(took),
            }
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        asyncio.run(load(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
