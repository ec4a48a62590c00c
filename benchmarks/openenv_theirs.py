"""OpenEnv's side of ``benchmarks/openenv.py``: its stock server, and its client as the load.

    python -P benchmarks/openenv_theirs.py serve
    python -P benchmarks/openenv_theirs.py load URL CLIENTS SECONDS ACTION

Started in OpenEnv's own environment. ``serve`` prints its port. ``load`` opens its sessions, then does a
round for every line that it reads and answers with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time

import uvicorn
from openenv import GenericEnvClient
from openenv.core.env_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State

TURNS = 100
"""Of an episode."""


class Nothing(Action):
    """The arguments of the tool on our side."""

    n: int
    word: str


class Seen(Observation):
    """Its answer."""

    result: str


class Null(Environment[Nothing, Seen, State]):
    """One action that does nothing, as the tool of our side."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def reset(self, seed: int | None = None, episode_id: str | None = None) -> Seen:
        """Start."""
        self.calls = 0
        return Seen(result="go")

    def step(self, action: Nothing) -> Seen:
        """Do nothing."""
        self.calls += 1
        return Seen(result="ok", reward=0.5, done=self.calls > TURNS)

    @property
    def state(self) -> State:
        """How it stands."""
        return State(step_count=self.calls)


class AsyncNull(Null):
    """The same without a thread of its own for every session."""

    async def reset_async(self, seed: int | None = None, episode_id: str | None = None) -> Seen:
        """Start."""
        return self.reset(seed)

    async def step_async(self, action: Nothing) -> Seen:
        """Do nothing."""
        return self.step(action)


def serve(kind: str) -> None:
    """OpenEnv's server, as its templates start it, without a log line per request."""
    env = AsyncNull if kind == "async" else Null
    app = create_app(env, Nothing, Seen, env_name="null", max_concurrent_envs=4096)
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


async def load(url: str, clients: int, seconds: float, action: dict[str, object]) -> None:
    """Rounds of steps, every client as fast as it can."""
    envs = []
    for _ in range(clients):
        env = GenericEnvClient(base_url=url)
        await env.connect()
        await env.reset()
        envs.append(env)

    async def play(number: int, until: float, took: list[float]) -> None:
        env, before = envs[number], time.perf_counter()
        while before < until:
            await env.step(action)
            now = time.perf_counter()
            took.append(now - before)
            left[number] -= 1
            if left[number] == 0:
                await env.reset()
                left[number], now = TURNS, time.perf_counter()
            before = now

    left = [1 + number * TURNS // clients for number in range(clients)]  # not all begin at once
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        took: list[float] = []
        began, spent = time.perf_counter(), time.process_time()
        await asyncio.gather(*(play(number, began + seconds, took) for number in range(clients)))
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
        serve(sys.argv[2])
    else:
        asyncio.run(load(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), json.loads(sys.argv[5])))
