"""What holding sessions to a bound of memory costs their server: a look, and a weighing.

    python benchmarks/weighing.py [--rounds 7]

A look at the process's memory takes place every second, a weighing when that has grown (see
`turnwise/envs/serving/memory.py`). Weighed are 256 sessions of a small environment, and one whose environment
holds a million objects. Meanwhile another task takes turns in the same event loop: the longest it had to wait
for one is what a weighing may add to a step. Medians, with least and most.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from turnwise.envs.env import Env
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import register
from turnwise.envs.serving.memory import resident
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.serving.weighing import weigh
from turnwise.envs.session import Session
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.types import AgentView, Task, text

SESSIONS = 256
OBJECTS = 1_000_000


@register
class Small(Env):
    """A few dozen numbers and words."""

    name = "bench/small"

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 1000)

    async def reset(self, task: Task) -> AgentView:
        self.words: list[Any] = [f"word {task.rng.random()}" for _ in range(20)]
        self.table = {word: number for number, word in enumerate(self.words)}
        return text("go")

    async def grade(self) -> float:
        return 0.0


async def waits(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """How long some work takes, and the longest that another task waits for its turn meanwhile; ms."""
    longest, over = 0.0, False

    async def other() -> None:
        nonlocal longest
        last = time.perf_counter()
        while not over:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(other())
        await asyncio.sleep(0.01)
        longest, began = 0.0, time.perf_counter()
        await work()
        took, over = time.perf_counter() - began, True
    return took * 1000, longest * 1000


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


async def weighed(what: str, sessions: Sequence[Session], server: EnvServer, rounds: int) -> None:
    both = [await waits(lambda: weigh(sessions, [server])) for _ in range(rounds)]
    took, longest = zip(*both, strict=True)
    print(f"{what}: {spread(took)} ms, longest wait {spread(longest)} ms")


async def run(rounds: int) -> None:
    looks = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(1000):
            resident()
        looks.append((time.perf_counter() - began) * 1000)
    print(f"a look: {spread(looks)} µs")
    server = EnvServer(["bench/small"], port=0)
    async with server, LocalEnvs() as envs, AsyncExitStack() as stack:
        opened = [envs.open("bench/small", seed=seed) for seed in range(SESSIONS)]
        sessions = [await stack.enter_async_context(session) for session in opened]
        for session in sessions:
            await session.reset()
        await weighed("nothing but what is shared", [], server, rounds)
        await weighed(f"{SESSIONS} sessions", sessions, server, rounds)
        big = sessions[0]
        assert isinstance(big.env, Small)
        big.env.words += [[float(number)] for number in range(OBJECTS // 2)]
        (weight,) = await weigh([big], [server])
        await weighed(f"one with {OBJECTS:,} objects, {weight >> 20} MiB", [big], server, rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    asyncio.run(run(parser.parse_args().rounds))
