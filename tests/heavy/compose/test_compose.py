"""What ``deploy/compose.yaml`` starts, on a real Engine: sessions find their replica whatever happens.

Runs where the Engine's network is this process's too (see the stage ``compose`` of ``.ci/run``), after
``deploy/prepare.sh``. The tests share one start, and the last takes everything down.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientError, ClientSession

from turnwise import connect, evaluate
from turnwise.envs.serving.client import RemoteEnvs, RemoteSession
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.wire import PATH, WORKER_HEADER
from turnwise.envs.types import call

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEPLOY = Path(__file__).parents[3] / "deploy"
URL, PROMETHEUS = "http://127.0.0.1:8000", "http://127.0.0.1:9090"
DESK = "tools/configdesk"
PARTS = {"one", "two", "proxy", "prometheus"}


async def compose(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "docker-compose", *words, cwd=DEPLOY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def until(truth: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(300):
        while not await truth():  # noqa: ASYNC110 - what it waits for happens in other processes
            await asyncio.sleep(0.2)


@dataclass(frozen=True)
class Seen:
    """What is on the Engine, as it describes it."""

    parts: dict[str, dict[str, Any]]
    sandboxes: list[dict[str, Any]]
    volumes: list[str]
    networks: list[str]

    @property
    def healthy(self) -> bool:
        states = {name: part["State"]["Health"]["Status"] for name, part in self.parts.items()}
        return states == dict.fromkeys(PARTS, "healthy")


def look() -> Seen:
    with closing(importlib.import_module("docker").from_env()) as engine:
        parts, sandboxes = {}, []
        for found in engine.containers.list(all=True, ignore_removed=True):
            name = found.labels.get("com.docker.compose.service")
            if name is None:
                sandboxes.append(found.attrs)
            else:
                parts[name] = found.attrs
        networks = engine.networks.list(filters={"label": "com.docker.compose.project"})
        volumes = engine.volumes.list()
        return Seen(parts, sandboxes, [volume.name for volume in volumes], [net.name for net in networks])


async def seen() -> Seen:
    return await asyncio.to_thread(look)


async def healthy() -> bool:
    return (await seen()).healthy


async def empty() -> bool:
    return await seen() == Seen({}, [], [], [])


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def started() -> AsyncIterator[None]:
    try:
        await compose("build")
        await compose("up", "--detach")
        await until(healthy)
        yield
    finally:
        await compose("down", "--volumes")


@pytest.fixture(scope="module")
def token() -> str:
    return (DEPLOY / "made/secrets/trainer").read_text()


@pytest_asyncio.fixture(loop_scope="module")
async def envs(token: str) -> AsyncIterator[RemoteEnvs]:
    async with connect(URL, token=token) as envs:
        yield envs


async def opened(envs: RemoteEnvs, stack: AsyncExitStack) -> RemoteSession:
    env = await stack.enter_async_context(envs.open(DESK))
    await env.reset()
    return env


async def at(worker: int, token: str) -> list[str]:
    """The sessions of a replica, as the proxy reaches it."""
    headers = {"Authorization": f"Bearer {token}", WORKER_HEADER: str(worker)}
    async with ClientSession(headers=headers) as http, http.get(f"{URL}{PATH}/sessions") as answer:
        return [line["session"] for line in (await answer.json())["sessions"]]


async def test_episodes_run_in_containers_of_both_replicas(envs: RemoteEnvs, token: str) -> None:
    async with AsyncExitStack() as stack:
        sessions = [await opened(envs, stack) for _ in range(2)]
        found = [await at(worker, token) for worker in (0, 1)]
        assert sorted(found) == sorted([[env.info.session] for env in sessions])
        modes = [sandbox["HostConfig"]["NetworkMode"] for sandbox in (await seen()).sandboxes]
        assert len(modes) >= 2
        assert set(modes) == {"none"}
    result = await evaluate(DESK, policy="scripted:random", tasks=4, envs=envs)
    assert len(result.scored) == 4


async def test_a_client_whose_proxy_restarts_returns_to_the_replica_of_each_session(
    envs: RemoteEnvs, token: str
) -> None:
    async with AsyncExitStack() as stack:
        sessions = [await opened(envs, stack) for _ in range(2)]
        for env in sessions:
            await env.step(call("check"))
        await compose("restart", "--timeout", "0", "proxy")
        for env in sessions:
            step = await env.step(call("check"))
            assert step.record is not None
            assert step.record.turn == 1
            async with connect(URL, token=env.agent_token) as side:
                assert (await (await side.attach()).step(call("check"))).record is None


async def test_a_killed_replica_ends_its_own_sessions_only_and_comes_back(
    envs: RemoteEnvs, token: str
) -> None:
    async with AsyncExitStack() as stack:
        sessions = [await opened(envs, stack) for _ in range(2)]
        (lost,) = [env for env in sessions if [env.info.session] == await at(1, token)]
        (kept,) = [env for env in sessions if env is not lost]
        await compose("kill", "two")
        assert (await kept.step(call("check"))).record is not None
        await compose("up", "--detach", "two")
        with pytest.raises(ServerFailed):
            await lost.step(call("check"))
        assert (await kept.step(call("check"))).record is not None
    await until(healthy)
    async with asyncio.timeout(300), AsyncExitStack() as stack:
        # The proxy and the client learn a little later that it is back.
        while not all(desk.link.up for desk in envs._desks.values()):
            await envs._dialler.changed.wait()
        for _ in range(2):
            await opened(envs, stack)
        assert [len(await at(worker, token)) for worker in (0, 1)] == [1, 1]


async def test_prometheus_sees_both_replicas(token: str) -> None:
    async def asked(query: str) -> dict[str, float]:
        """A query's answer by replica."""
        address = f"{PROMETHEUS}/api/v1/query"
        async with ClientSession() as http, http.get(address, params={"query": query}) as answer:
            lines = (await answer.json())["data"]["result"]
        return {line["metric"]["instance"]: float(line["value"][1]) for line in lines}

    async def told() -> bool:
        up = await asked("up")
        places = await asked("sum by (instance) (turnwise_places)")
        steps = await asked("sum by (instance) (turnwise_steps_total)")
        both = ("one:8000", "two:8000")
        return up == dict.fromkeys(both, 1) and places == dict.fromkeys(both, 16) and "one:8000" in steps

    await until(told)


async def test_nothing_is_open_that_need_not_be(token: str) -> None:
    async with ClientSession() as http, http.get(f"{URL}{PATH}/environments") as answer:
        assert answer.status == 401
    for name, part in (await seen()).parts.items():
        host, config = part["HostConfig"], part["Config"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["Memory"] > 0
        assert config["User"] not in ("", "root", "0")
        assert token not in str(part)
        bound = {line["HostIp"] for lines in (host["PortBindings"] or {}).values() for line in lines}
        assert bound == ({"127.0.0.1"} if name in ("proxy", "prometheus") else set())


async def test_taken_down_in_the_middle_of_an_episode_it_leaves_nothing(token: str) -> None:
    async with connect(URL, token=token) as envs, AsyncExitStack() as stack:
        for _ in range(2):
            await opened(envs, stack)
        assert (await seen()).sandboxes
        await compose("down", "--volumes", "--timeout", "240")
    with pytest.raises(ClientError):
        await at(0, token)
    await until(empty)
