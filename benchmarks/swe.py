"""Episodes of software repair per minute, against the same commands through a ``docker run`` per episode.

    python benchmarks/swe.py [--env ENV] [--episodes 64] [--group 8] [--at-once 16] [--rounds 3] [--json FILE]

The scripted oracle repairs task after task, in groups of episodes of the same one. ``ours`` is a rollout as
training makes it, with milestones after every turn and the judge at the end: ``remembering`` starts with the
results of all tasks at hand, ``fresh`` with none. ``docker`` starts a container for each episode,
copies the repository into it, carries out each call with ``docker exec``, copies the hidden tests in, runs
them there and removes it; it has neither milestones nor a grader that stands up to cheats. The ways take
turns. Docker needs an Engine (``DOCKER_HOST``), and is left out where none answers; its image is this
machine's own Python.

Then, one at a time: what a reset costs, and the last turn with its grading.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import statistics
import subprocess
import tarfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from turnwise.agents.rollout import RolloutPlan, rollout
from turnwise.agents.scripted import scripted
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.envs.swe import bench, hand_in
from turnwise.envs.swe.pytest_files import pytest_files
from turnwise.envs.swe.repository import owned_files
from turnwise.envs.swe.task import SweTask
from turnwise.envs.swe.testing import command, environment, program_files
from turnwise.envs.types import CallAction, Task, ToolCall
from turnwise.sandbox.images import Host, Store

IMAGE = "turnwise-benchmark"
REPLACE = "import sys; p, a, b = sys.argv[1:]; s = open(p).read(); open(p, 'w').write(s.replace(a, b, 1))"
ORACLE = scripted("scripted:oracle")


# ---------------------------------------------------------------- ours


async def ours(spec: EnvSpec, tasks: list[Task], at_once: int) -> float:
    """Seconds for an episode of each task."""
    async with LocalEnvs(backend="namespaces", capacity=at_once) as envs:
        began = time.perf_counter()
        episodes = await rollout(envs, spec, ORACLE, RolloutPlan(tasks, 1, 0, "bench", concurrency=at_once))
        seconds = time.perf_counter() - began
    assert all(episode.score == 1.0 for episode in episodes), [e.error for e in episodes]
    return seconds


def forget() -> None:
    """As if no task had been tried before."""
    bench._trials.clear()
    hand_in._verdicts.clear()


async def latencies(spec: EnvSpec, tasks: list[Task]) -> dict[str, list[float]]:
    """Milliseconds of a reset to a snapshot that is there, and of the last turn with its grading."""
    found: dict[str, list[float]] = {"reset": [], "last turn, fresh": [], "last turn, remembering": []}
    async with LocalEnvs(backend="namespaces", capacity=1) as envs:
        for task in tasks:
            for name in ("", "last turn, fresh", "last turn, remembering"):
                async with envs.open(spec, task=task) as session:
                    began = time.perf_counter()
                    await session.reset()
                    if name:
                        found["reset"].append(1000 * (time.perf_counter() - began))
                    while session.end is None:
                        action = await session.env.oracle()
                        assert action is not None
                        if name == "last turn, fresh":
                            forget()
                        step = await session.step(action)
                    assert step.record is not None
                    if name:
                        found[name].append(1000 * step.record.seconds)
    return found


# ---------------------------------------------------------------- a container per episode


async def docker(*words: str, feed: bytes = b"") -> bytes:
    """What a docker command prints."""
    process = await asyncio.create_subprocess_exec(
        "docker", *words, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate(feed)
    return said


def archive(files: dict[str, bytes]) -> bytes:
    """A tar of files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def words(task: SweTask, call: ToolCall) -> list[str]:
    """The command that does what a call of a tool does."""
    a: dict[str, Any] = dict(call.arguments)
    match call.name:
        case "test":
            return ["sh", "-c", command(task, task.visible)]
        case "search":
            return ["grep", "-rnE", a["pattern"], "."]
        case "view":
            return ["cat", a["path"]]
        case "replace":
            return ["python3", "-c", REPLACE, a["path"], a["old"], a["new"]]
        case _:
            return ["true"]


async def contained(task: SweTask, calls: list[ToolCall]) -> None:
    """One episode in a container of its own."""
    started = ["run", "-d", "--network", "none", "--memory", "512m", "-w", task.at, IMAGE, "sleep", "600"]
    name = (await docker(*started)).decode().strip()
    env = [word for key, value in environment(task).items() for word in ("-e", f"{key}={value}")]
    try:
        files, _ = await owned_files(task)
        await docker("cp", "-", f"{name}:/", feed=archive({f"{task.at}/{p}": d for p, d in files.items()}))
        for call in calls:
            await docker("exec", *env, name, *words(task, call))
        hidden = {f"{task.at}/{path}": text.encode() for path, text in task.hidden.items()}
        await docker("cp", "-", f"{name}:/", feed=archive(hidden))
        said = await docker(
            "exec", *env, name, "sh", "-c", f"{command(task, list(task.hidden))}; echo exit $?"
        )
        assert said.rstrip().endswith(b"exit 0"), said
    finally:
        await docker("rm", "-f", name)


async def containers(episodes: list[tuple[SweTask, list[ToolCall]]], at_once: int) -> float:
    """Seconds for an episode of each task."""
    room = asyncio.Semaphore(at_once)

    async def one(task: SweTask, calls: list[ToolCall]) -> None:
        async with room:
            await contained(task, calls)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for episode in episodes:
            group.create_task(one(*episode))
    return time.perf_counter() - began


async def calls_of(spec: EnvSpec, tasks: list[Task]) -> list[tuple[SweTask, list[ToolCall]]]:
    """What the oracle calls in each task."""
    async with LocalEnvs(backend="namespaces", capacity=16) as envs:
        episodes = await rollout(envs, spec, ORACLE, RolloutPlan(tasks, 1, 0, "calls", concurrency=16))
    found = []
    for task, episode in zip(tasks, episodes, strict=True):
        actions = [turn.action for turn in episode.turns]
        calls = [call for action in actions if isinstance(action, CallAction) for call in action.calls]
        found.append((SweTask.model_validate(task.secret.data), calls))
    return found


def make_image(task: SweTask) -> bool:
    """This machine's Python and shell with the test runner, as an image; False where no Engine answers."""
    if subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        return False
    image = Store().build("benchmark", Host())
    root = Store().root(image)
    extra = {**program_files(task), **(pytest_files() if task.runner == "pytest" else {})}
    with subprocess.Popen(
        ["docker", "import", "-", IMAGE], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as to:
        assert to.stdin is not None
        with tarfile.open(fileobj=to.stdin, mode="w|") as tar:
            tar.add(root, arcname=".")
            for path, data in extra.items():
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.size, entry.mode = len(data), 0o644
                tar.addfile(entry, io.BytesIO(data))
    return to.returncode == 0


# ---------------------------------------------------------------- the comparison


async def compare(args: argparse.Namespace) -> dict[str, list[float]]:
    """Episodes per minute of each way, by round."""
    spec = EnvSpec.parse(args.env)
    offered = spec.make().task_set("train")
    tasks = [offered.nth(i // args.group % len(offered)) for i in range(args.episodes)]
    episodes = await calls_of(spec, tasks)
    ways: dict[str, Callable[[], Awaitable[float]]] = {
        "ours, fresh": lambda: ours(spec, tasks, args.at_once),
        "ours, remembering": lambda: ours(spec, tasks, args.at_once),
    }
    if make_image(episodes[0][0]):
        ways["docker run"] = lambda: containers(episodes, args.at_once)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        forget()
        for name, way in ways.items():
            found[name].append(60 * args.episodes / await way())
            print(f"  {name}: {found[name][-1]:.0f} episodes a minute", flush=True)
    return found


def main() -> None:
    """Print medians and spread."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="swe/sample?level=1")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--group", type=int, default=8, help="episodes of each task")
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    found = asyncio.run(compare(args))
    size = f"{args.episodes} episodes, {args.group} of each task, {args.at_once} at once"
    print(f"{args.env}, {size}, load {load:.1f} at the start")
    for name, rates in found.items():
        spread = f"{min(rates):.0f} to {max(rates):.0f}"
        print(f"{name:20} {statistics.median(rates):8.0f} ({spread}) episodes a minute")
    spec = EnvSpec.parse(args.env)
    offered = spec.make().task_set("train")
    times = asyncio.run(latencies(spec, [offered.nth(i) for i in range(min(len(offered), 24))]))
    for name, values in times.items():
        ordered = sorted(values)
        print(f"{name:24} {statistics.median(ordered):8.1f} ms ({ordered[0]:.1f} to {ordered[-1]:.1f})")
    if args.json is not None:
        args.json.write_text(json.dumps({"episodes a minute": found, "ms": times}, indent=1) + "\n")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
