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

from turnwise.envs.client import RemoteSession, connect
from turnwise.envs.env import Env
from turnwise.envs.registry import register
from turnwise.envs.server import EnvServer
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import tool
from turnwise.envs.types import AgentView, EpisodeLimits, Task, call, text


class Null(Env):
    """One tool that does nothing, as OpenEnv's side has one action."""

    name = "benchmark/null"
    limits = EpisodeLimits(turns=1 << 40, seconds=1e6)

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
        print(server.port, flush=True)
        await asyncio.Event().wait()


async def load(url: str, clients: int, seconds: float) -> None:
    """Rounds of steps, every session as fast as it can."""

    async def play(env: RemoteSession, until: float, took: list[float]) -> None:
        action = call("nothing", n=1, word="x")
        before = time.perf_counter()
        while before < until:
            await env.step(action)
            now = time.perf_counter()
            took.append(now - before)
            before = now

    async with AsyncExitStack() as stack:
        remote = await stack.enter_async_context(connect(url))
        envs = [await stack.enter_async_context(remote.open(Null.name)) for _ in range(clients)]
        for env in envs:
            await env.reset()
        while await asyncio.to_thread(sys.stdin.readline):
            took: list[float] = []
            began, spent = time.perf_counter(), time.process_time()
            await asyncio.gather(*(play(env, began + seconds, took) for env in envs))
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
