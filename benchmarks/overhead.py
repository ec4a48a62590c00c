"""What the agent runtime itself costs: CPU per turn of an environment that does nothing.

    python benchmarks/overhead.py [--repeats 5]

A null environment, a scripted policy and no tokens: what is left is the episode loop, the session with
its validation, milestones, rewards and records, and asyncio. Processor time of the whole process over
the number of turns, at 1, 16 and 256 concurrent episodes; median and spread over repeats.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time

from turnwise.agents.rollout import RolloutPlan, rollout
from turnwise.agents.scripted import scripted
from turnwise.envs.env import Env
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec, register
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import milestone, reward, tool
from turnwise.envs.types import Action, AgentView, EpisodeLimits, Task, call, text

TURNS = 64


class Null(Env):
    """One tool that does nothing, one milestone, one reward channel."""

    name = "benchmark/null"
    limits = EpisodeLimits(turns=TURNS)

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

    @milestone
    def called(self) -> bool:
        return self.calls > 10_000

    @reward("effort", level=2)
    def effort(self) -> float:
        return 0.5

    async def grade(self) -> float:
        return 1.0

    def random_action(self, rng: random.Random) -> Action:
        return call("nothing", n=1, word="x")


register(Null)


async def measure(concurrent: int, episodes: int) -> float:
    """CPU milliseconds per turn."""
    spec = EnvSpec(name=Null.name)
    tasks = spec.make().task_set("train")[:episodes]
    plan = RolloutPlan(tasks, 1, 0, "overhead", concurrency=concurrent)
    async with LocalEnvs() as envs:
        started = time.process_time()
        done = await rollout(envs, spec, scripted("scripted:random"), plan)
        spent = time.process_time() - started
    return 1000 * spent / sum(len(episode.turns) for episode in done)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    asyncio.run(measure(16, 16))
    print(f"CPU ms per turn, {TURNS} turns an episode: median (min to max) of {repeats}")
    for concurrent in (1, 16, 256):
        values = sorted(asyncio.run(measure(concurrent, max(64, concurrent))) for _ in range(repeats))
        middle = statistics.median(values)
        print(f"{concurrent:4d} concurrent  {middle:.3f}  ({values[0]:.3f} to {values[-1]:.3f})")


if __name__ == "__main__":
    main()
