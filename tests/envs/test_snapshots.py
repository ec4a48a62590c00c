"""Snapshots of a session: it goes back, in memory, on disk and at random, here and on a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from turnwise import connect
from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.serving.client import RemoteEnvs, RemoteSession
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.session import SNAPSHOTS, Session
from turnwise.envs.types import EndReason, FinishAction, call
from turnwise.sandbox.contract import SandboxError
from turnwise.sandbox.process import ProcessBackend


@asynccontextmanager
async def here() -> AsyncIterator[LocalEnvs]:
    async with LocalEnvs(backend="process", capacity=3) as envs:
        yield envs


@asynccontextmanager
async def there() -> AsyncIterator[RemoteEnvs]:
    async with (
        asyncio.timeout(300),
        EnvServer(["test/pad"], port=0, sessions=3, backend="process") as server,
        connect(server.url) as envs,
    ):
        yield envs


@pytest.fixture(params=[here, there])
async def env(request: pytest.FixtureRequest) -> AsyncIterator[Session | RemoteSession]:
    async with request.param() as envs, envs.open("test/pad") as env:
        yield env


async def shown(env: Session | RemoteSession) -> str:
    return (await env.step(call("show"))).view.text


async def test_a_session_goes_back_as_often_as_one_likes(env: Session | RemoteSession) -> None:
    await env.reset()
    await env.step(call("write", line="a"))
    await env.snapshot("one")
    for line in ("b", "c"):
        await env.step(call("write", line=line))
        first = await shown(env)
        assert first.startswith(f"a{line} a{line}")
        assert env.reached == {"begun": 0, "full": 1}
        await env.snapshot(f"after-{line}")
        await env.restore("one")
        assert (env.turn, env.reached) == (1, {"begun": 0})
    begun = await shown(env)
    assert begun.startswith("a a ")
    assert begun.split()[-1] == first.split()[-1], "the same random stream"
    await env.restore("after-b")
    assert (await shown(env)).startswith("ab ab")


async def test_also_from_the_end(env: Session | RemoteSession) -> None:
    await env.reset()
    await env.snapshot("start")
    await env.step(call("write", line="a"))
    assert (await env.step(FinishAction())).end is EndReason.SUBMITTED
    with pytest.raises(RuntimeError, match="ended"):
        await env.snapshot("end")
    await env.restore("start")
    assert (env.turn, env.end, env.score) == (0, None, None)
    last = await env.step(FinishAction())
    assert last.record is not None
    assert (last.record.turn, env.score) == (0, 0.0)


async def test_names_and_bounds(env: Session | RemoteSession) -> None:
    with pytest.raises(RuntimeError, match="reset"):
        await env.snapshot("a")
    with pytest.raises(UsageError, match="unknown snapshot 'a'"):
        await env.restore("a")
    await env.reset()
    for number in range(SNAPSHOTS):
        await env.snapshot(f"s{number}")
    with pytest.raises(UsageError, match=f"has {SNAPSHOTS} already"):
        await env.snapshot("more")
    await env.step(call("write", line="x"))
    await env.snapshot("s3")
    await env.restore("s2")
    await env.restore("s3")
    assert env.turn == 1, "a name that is taken again stands for the later state"
    with pytest.raises(UsageError, match="did you mean"):
        await env.restore("s33")
    (twin,) = await env.fork(1)
    async with twin:
        with pytest.raises(UsageError, match="unknown snapshot"):
            await twin.restore("s3")


async def test_what_a_session_kept_is_dropped_with_it() -> None:
    async with here() as envs:
        async with envs.open("test/pad") as env:
            await env.reset()
            for _ in range(2):
                await env.snapshot("a")
                await env.snapshot("b")
            backend = envs._backend
            assert isinstance(backend, ProcessBackend)
            assert len(backend._snapshots) == 2
        assert not backend._snapshots


async def test_going_back_in_a_lost_sandbox_is_the_machines_failure() -> None:
    async with here() as envs, envs.open("test/pad") as env:
        await env.reset()
        await env.snapshot("a")
        await env.env.sandbox.close()
        with pytest.raises(SandboxError):
            await env.restore("a")
        assert env.end is EndReason.INFRA_ERROR


async def test_one_call_at_a_time(env: Session | RemoteSession) -> None:
    await env.reset()
    await env.snapshot("a")
    running = asyncio.create_task(env.step(call("hang")))
    await asyncio.sleep(0)
    for attempt in (env.snapshot("b"), env.restore("a")):
        with pytest.raises(RuntimeError, match="running"):
            await attempt
    running.cancel()
    await asyncio.wait([running])
