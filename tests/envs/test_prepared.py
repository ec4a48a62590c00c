"""Prepared snapshots: made once, restored for each episode, and nothing of one episode in another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

import pytest

from turnwise.envs.env import Env
from turnwise.envs.local import LocalEnvs
from turnwise.envs.prepared import Prepared
from turnwise.envs.registry import register
from turnwise.envs.session import EpisodeFailed
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import tool
from turnwise.envs.types import AgentView, EndReason, Model, Task, call, text
from turnwise.sandbox.contract import LimitExceeded, SandboxDied, SandboxSpec, Snapshot


class DeskOptions(Model):
    fault: str = ""


@register
class Prep(Env):
    """Episodes start from a file that was prepared; task 0 and 1 share it."""

    name = "test/prepared"
    sandbox_spec = SandboxSpec()
    Options = DeskOptions
    options: DeskOptions
    made: ClassVar[list[str]] = []
    begun: ClassVar[asyncio.Event]
    gate: ClassVar[asyncio.Event | None] = None

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 4)

    def preparation(self, task: Task) -> str:
        return str(task.ref.seed // 2)

    async def prepare(self, task: Task) -> None:
        key = self.preparation(task)
        self.made.append(key)
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        match self.options.fault:
            case "bug":
                raise ValueError("the repository is missing")
            case "limit":
                raise LimitExceeded("disk", "too large")
            case "died":
                raise SandboxDied("gone")
        await self.sandbox.write("given", f"prepared {key}".encode())
        await self.sandbox.shell("mkdir -p inner && cd inner && export MARK=7")

    async def reset(self, task: Task) -> AgentView:
        return text((await self.sandbox.read("given")).decode())

    @tool
    async def run(self, command: str) -> str:
        """Run a command."""
        return (await self.sandbox.shell(command)).stdout.decode()

    @tool(submits=True)
    def done(self) -> str:
        """Done."""
        return "ok"

    async def grade(self) -> float:
        return 1.0


@pytest.fixture(autouse=True)
def forget() -> None:
    Prep.made.clear()
    Prep.begun = asyncio.Event()
    Prep.gate = None


@pytest.fixture(params=["namespaces", "process"])
async def envs(request: pytest.FixtureRequest) -> AsyncIterator[LocalEnvs]:
    async with LocalEnvs(backend=request.param, capacity=4) as envs:
        yield envs


async def told(envs: LocalEnvs, seed: int, *commands: str) -> list[str]:
    """What an episode shows at its start, and for each command."""
    async with envs.open("test/prepared", seed=seed) as session:
        out = [(await session.reset()).text]
        for command in commands:
            out.append((await session.step(call("run", command=command))).view.text.strip())
        return out


async def test_the_work_is_done_once_for_each_key(envs: LocalEnvs) -> None:
    assert [await told(envs, seed) for seed in (0, 1, 2, 0)] == [
        ["prepared 0"],
        ["prepared 0"],
        ["prepared 1"],
        ["prepared 0"],
    ]
    assert Prep.made == ["0", "1"]


async def test_the_shell_stands_where_it_was_left(envs: LocalEnvs) -> None:
    assert await told(envs, 0, 'basename "$PWD"; echo $MARK') == ["prepared 0", "inner\n7"]


async def test_nothing_of_an_episode_reaches_another_or_the_snapshot(envs: LocalEnvs) -> None:
    spoil = "echo spoilt > ../given; touch ../extra; export MARK=8; cd /; echo done"
    assert await told(envs, 0, spoil) == ["prepared 0", "done"]
    for seed in (0, 1):
        assert await told(envs, seed, "cat ../given; ls ..; echo $MARK") == [
            "prepared 0",
            "prepared 0given\ninner\n7",
        ]


async def test_first_episodes_of_a_key_wait_for_one_preparation(envs: LocalEnvs) -> None:
    Prep.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        runs = [tasks.create_task(told(envs, 0)) for _ in range(4)]
        await Prep.begun.wait()
        Prep.gate.set()
    assert [run.result() for run in runs] == [["prepared 0"]] * 4
    assert Prep.made == ["0"]


async def test_another_takes_over_from_one_that_was_cancelled(envs: LocalEnvs) -> None:
    Prep.gate = asyncio.Event()
    first = asyncio.create_task(told(envs, 0))
    await Prep.begun.wait()
    second = asyncio.create_task(told(envs, 0))
    await asyncio.sleep(0)
    first.cancel()
    Prep.gate.set()
    assert await second == ["prepared 0"]
    assert Prep.made == ["0", "0"]
    with pytest.raises(asyncio.CancelledError):
        await first


@pytest.mark.parametrize(
    ("fault", "end"),
    [("bug", EndReason.ENV_ERROR), ("limit", EndReason.ENV_ERROR), ("died", EndReason.INFRA_ERROR)],
)
async def test_a_failure_is_classified_and_tried_again(envs: LocalEnvs, fault: str, end: EndReason) -> None:
    for _ in range(2):
        async with envs.open(f"test/prepared?fault={fault}", seed=0) as session:
            with pytest.raises(EpisodeFailed) as failed:
                await session.reset()
        assert failed.value.end is end
    assert Prep.made == ["0", "0"]


async def test_failed_preparations_give_their_sandboxes_back(envs: LocalEnvs) -> None:
    for _ in range(6):  # of a pool of four
        async with envs.open("test/prepared?fault=bug", seed=0) as session:
            with pytest.raises(EpisodeFailed):
                await session.reset()


async def test_an_environment_may_lease_while_every_episode_holds_one(envs: LocalEnvs) -> None:
    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(_lease_within(envs))


async def _lease_within(envs: LocalEnvs) -> None:
    async with envs.open("test/prepared", seed=0) as session:
        await session.reset()
        env, task = session.env, session.task
        async with env.sandboxes.lease(SandboxSpec(), env.beginning(task)) as beside:
            assert await beside.read("given") == b"prepared 0"
            await beside.write("given", b"tried out")
        assert await env.sandbox.read("given") == b"prepared 0"


class Store:
    """Snapshots that know when they were dropped; each has a name of its own, as a backend's have."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.dropped: list[str] = []

    async def drop(self, snapshot: Snapshot) -> None:
        await asyncio.sleep(0)
        assert snapshot.name not in self.dropped
        self.dropped.append(snapshot.name)

    async def use(self, prepared: Prepared, key: str, size: int = 1) -> None:
        async with prepared.using(key, lambda: self.make(key, size)) as snapshot:
            assert snapshot.name.startswith(key)
            await asyncio.sleep(0)
            assert snapshot.name not in self.dropped

    async def make(self, key: str, size: int) -> Snapshot:
        name = f"{key}{len(self.made)}"
        self.made.append(name)
        return Snapshot(name, "fake", SandboxSpec(), size)


async def test_the_one_used_longest_ago_is_dropped() -> None:
    store = Store()
    prepared = Prepared(store.drop, most=2)
    for key in "abac":
        await store.use(prepared, key)
    assert store.dropped == ["b1"]
    await store.use(prepared, "b")
    assert store.dropped == ["b1", "a0"]
    assert store.made == ["a0", "b1", "c2", "b3"]


async def test_memory_is_bounded_as_well() -> None:
    store = Store()
    prepared = Prepared(store.drop, most_bytes=100)
    for key in "abc":
        await store.use(prepared, key, size=60)
    assert store.dropped == ["a0", "b1"]
    assert len(prepared) == 1


async def test_one_in_use_is_not_dropped() -> None:
    store = Store()
    prepared = Prepared(store.drop, most=1)
    async with prepared.using("a", lambda: store.make("a", 1)):
        await store.use(prepared, "b")
        assert "a0" not in store.dropped
    assert len(prepared) == 1


async def test_those_who_leave_at_once_drop_each_only_once() -> None:
    store = Store()
    prepared = Prepared(store.drop, most_bytes=100)
    for key in "abcdefghij":
        await store.use(prepared, key, size=10)
    async with asyncio.TaskGroup() as tasks:
        for key in "xyz":
            tasks.create_task(store.use(prepared, key, size=90))
    assert len(prepared) == 1
    assert len(store.made) - len(store.dropped) == 1
