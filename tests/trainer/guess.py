"""A game that is learned in seconds, and runs in processes of their own that can die at any moment.

As a program it reads requests from standard input, one JSON line each, and carries out each in a fork, so
that what takes seconds to import is imported once. The fork says in a line what came of it, then the program
says how the fork ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from turnwise.envs.env import Env
from turnwise.envs.registry import register
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import milestone, tool
from turnwise.envs.types import Action, AgentView, EpisodeLimits, Model, Task, call, text
from turnwise.sandbox.contract import SandboxDied
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.tracker import Row
from turnwise.trainer.train import train


class GuessOptions(Model):
    """How hard it is, and how often the machine fails."""

    numbers: int = Field(default=2, ge=1)
    """The number to guess is one of 1 to this."""
    talk: int = Field(default=0, ge=0)
    """Words that every answer has to spare."""
    failing: float = Field(default=0.0, ge=0, le=1)
    """The share of tasks that end as ``infra_error`` at the first guess."""
    failing_split: str = ""
    """The split of which every task does so before its first turn."""


@register
class Guess(Env):
    """Guess the number."""

    name = "test/guess"
    limits = EpisodeLimits(turns=4)
    Options = GuessOptions
    options: GuessOptions

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 100)

    async def reset(self, task: Task) -> AgentView:
        self.number, self.said_last = task.rng.randint(1, self.options.numbers), 0
        self.fails = task.rng.random() < self.options.failing
        if task.id.partition("/")[0] == self.options.failing_split:
            raise SandboxDied("the machine failed")
        return text("guess" + " word" * self.options.talk)

    @tool
    async def guess(self, number: int) -> str:
        if self.fails:
            raise SandboxDied("the machine failed")
        self.said_last = number
        answer = "yes" if number == self.number else "higher" if number < self.number else "lower"
        return answer + " word" * self.options.talk

    @tool(submits=True)
    def submit(self) -> str:
        return ""

    @milestone
    def tried(self) -> bool:
        return self.said_last > 0

    @milestone
    def found(self) -> bool:
        return self.said_last == self.number

    async def oracle(self) -> Action:
        return call("submit") if self.said_last == self.number else call("guess", number=self.said_last + 1)

    async def grade(self) -> float:
        return float(self.said_last == self.number)


def recipe(**changes: Any) -> Recipe:
    """A run of a second: a model of 20,000 parameters, two steps of 32 episodes."""
    base: dict[str, Any] = {
        "name": "guess",
        "env": "test/guess",
        "credit": ["outcome", "grpo"],
        "model": {
            "kind": "tiny",
            "hidden_size": 32,
            "heads": 2,
            "kv_heads": 1,
            "ffn_size": 64,
            "context": 64,
        },
        "warm_start": {
            "demonstrations": 64,
            "oracle": 0.6,
            "gate": 0.05,
            "check_every": 10,
            "max_steps": 100,
            "batch": 32,
            "lr": 0.01,
        },
        "rollout": {"tasks": 8, "group": 4, "max_tokens": 6},
        "optimizer": {"lr": 0.005, "minibatch": 16},
        "evaluate": {"tasks": 16, "every": 2},
        "steps": 2,
        "device": "cpu",
    }
    return Recipe.read(base).override(**changes)


# ---------------------------------------------------------------- as a program

PATIENCE = 300
"""Seconds after which a run counts as hanging."""


class Moments:
    """Writes down what happens in a run, as its watcher and tracker, and kills the process at one of it."""

    def __init__(self, name: str, number: int) -> None:
        self.passed: list[str] = []
        self.last = name, number
        self.synced = os.fsync

    def pass_one(self, name: str) -> None:
        """The process dies at the moment of this number of the name that was asked for, or of any."""
        self.passed.append(name)
        asked, number = self.last
        if number == (self.passed.count(name) if name == asked else len(self.passed) if not asked else 0):
            print(json.dumps({"killed": name, "below": below(os.getpid())}), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def phase(self, name: str, done: int, total: int) -> None:
        self.pass_one(name)

    def log(self, row: Row) -> None:
        """After the row was written to ``metrics.jsonl``."""
        self.pass_one(f"{row['kind']} row")

    def close(self) -> None:
        self.pass_one("close")

    def sync(self, fd: Any) -> None:
        """In place of ``os.fsync``: half-way through writing episodes or a checkpoint."""
        self.pass_one("sync")
        self.synced(fd)


def below(pid: int) -> list[list[int]]:
    """Every process started below one, as pid and start time."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                found += [[int(child), started(int(child))], *below(int(child))]
    return found


def started(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def serve(request: Mapping[str, Any]) -> None:
    """Train, or go on, in this process; it may die at a moment of a name and number, or where it hangs."""
    signal.alarm(PATIENCE)
    moments = Moments(*request["die"])
    os.fsync = moments.sync
    chosen = Recipe.read(request["recipe"])
    asyncio.run(train(chosen, run=request["run"], resume=True, trackers=[moments], watcher=moments))
    print(json.dumps({"passed": moments.passed}), flush=True)


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            serve(json.loads(line))
            sys.exit()
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
