"""Several equal servers behind one proxy: what leads to a session leads to its replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from aiohttp import ClientSession

from turnwise import connect
from turnwise.envs.errors import UsageError
from turnwise.envs.serving.client import RemoteEnvs, RemoteSession
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.faults import Code
from turnwise.envs.serving.front import Front
from turnwise.envs.serving.routing import END, Place, Replica, worker_of
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.serving.wire import PATH
from turnwise.envs.types import call

DESK = "tools/configdesk"


class Proxy:
    """Carries each connection to the replica that its head leads to, else to the first."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._ends: list[asyncio.StreamWriter] = []
        self.away: set[int] = set()
        """The replicas that cannot be reached."""

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.append(writer)
        try:
            head = await reader.readuntil(END)
            replica = worker_of(head) or 0
            if replica in self.away:
                raise ConnectionError
            source, sink = await asyncio.open_connection("127.0.0.1", self._ports[replica])
        except (OSError, EOFError):
            writer.close()
            return
        self._ends.append(sink)
        sink.write(head)
        async with asyncio.TaskGroup() as ways:
            ways.create_task(self._pipe(reader, sink))
            ways.create_task(self._pipe(source, writer))

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(1 << 16):
                sink.write(data)
        sink.close()

    def cut(self) -> None:
        for end in self._ends:
            end.transport.abort()
        self._ends.clear()


@asynccontextmanager
async def replicas(sessions: int = 8) -> AsyncIterator[tuple[list[EnvServer], Proxy, RemoteEnvs]]:
    """Two servers, the proxy before them and a client of it."""
    async with asyncio.timeout(300), AsyncExitStack() as stack:
        places = [Replica(number, 2).place(number - 1, 1) for number in (1, 2)]
        servers = [
            EnvServer([DESK], port=0, backend="process", place=place, sessions=sessions, lease=1000.0)
            for place in places
        ]
        for server in servers:
            await stack.enter_async_context(server)
        proxy = Proxy([server.port for server in servers])
        listener = await stack.enter_async_context(await asyncio.start_server(proxy.carry, "127.0.0.1"))
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        yield servers, proxy, await stack.enter_async_context(connect(url))


async def opened(envs: RemoteEnvs, stack: AsyncExitStack) -> RemoteSession:
    env = await stack.enter_async_context(envs.open(DESK))
    await env.reset()
    return env


async def workers(server: EnvServer) -> list[int]:
    """Where the sessions are that a server has."""
    async with ClientSession() as http, http.get(f"{server.url}{PATH}/sessions") as answer:
        return [line["worker"] for line in (await answer.json())["sessions"]]


async def test_a_client_uses_every_replica_and_returns_to_that_of_each_session() -> None:
    async with replicas() as (servers, proxy, envs), AsyncExitStack() as stack:
        sessions = [await opened(envs, stack) for _ in range(4)]
        assert [await workers(server) for server in servers] == [[0, 0], [1, 1]]
        proxy.cut()
        for env in sessions:
            assert (await env.step(call("check"))).record is not None
            async with connect(envs.url, token=env.agent_token) as side:
                assert (await (await side.attach()).step(call("check"))).record is None


async def test_a_replica_that_is_away_is_left_out_and_costs_nobody_else_anything() -> None:
    async with replicas() as (servers, _, envs), AsyncExitStack() as stack:
        first, second = [await opened(envs, stack) for _ in range(2)]
        await servers[1].__aexit__()
        with pytest.raises(ServerFailed):
            await second.step(call("check"))
        for env in [first, *[await opened(envs, stack) for _ in range(3)]]:
            assert (await env.step(call("check"))).record is not None
        assert await workers(servers[0]) == [0] * 4


async def test_while_a_replica_is_away_its_sessions_wait_and_others_do_not() -> None:
    async with replicas() as (servers, proxy, envs), AsyncExitStack() as stack:
        first, second = [await opened(envs, stack) for _ in range(2)]
        proxy.away = {1}
        proxy.cut()
        step = asyncio.create_task(second.step(call("check")))
        for env in [first, *[await opened(envs, stack) for _ in range(3)]]:
            assert (await env.step(call("check"))).record is not None
        assert await workers(servers[0]) == [0] * 4
        async with connect(envs.url) as side:
            assert (await (await side.attach(first.info.session)).step(call("check"))).record is not None
            with pytest.raises(ServerFailed, match="no server answers"):
                await side.attach(second.info.session)
        assert not step.done()
        proxy.away = set()
        assert (await step).record is not None


async def test_a_session_is_found_while_a_replica_that_does_not_have_it_is_away() -> None:
    async with replicas() as (_, proxy, envs), AsyncExitStack() as stack:
        second = [await opened(envs, stack) for _ in range(2)][1]
        proxy.away = {0}
        proxy.cut()
        for worker, up in ((0, False), (1, True)):
            while envs._desks[worker].link.up is not up:
                await envs._dialler.changed.wait()
        async with asyncio.timeout(100):  # and not for a lease
            assert (await envs.attach(second.info.session)).turn == 0


async def test_an_open_that_a_replica_does_not_answer_is_asked_of_another_and_leaves_no_session() -> None:
    async with replicas(sessions=1) as (servers, proxy, envs), AsyncExitStack() as stack:
        first, second = [await opened(envs, stack) for _ in range(2)]
        third = asyncio.create_task(opened(envs, stack))
        while not servers[0]._counters.waiting:  # noqa: ASYNC110 - it is in the queue there then
            await asyncio.sleep(0.01)
        proxy.away = {0}
        proxy.cut()
        while not servers[1]._counters.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        proxy.away = set()
        await first.step(call("check"))
        await first.close()
        await second.close()
        await third
        assert [await workers(server) for server in servers] == [[], [1]]


async def test_that_a_replica_goes_and_that_it_is_back_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def told() -> list[str]:
        lines = [record.message for record in caplog.records if record.message.startswith("Worker 1 of ")]
        return [line.partition(" is ")[2].partition(":")[0] for line in lines]

    async with replicas() as (_, proxy, envs), AsyncExitStack() as stack:
        for number in (1, 2):
            proxy.away = {1}
            proxy.cut()  # at first there is no connection to it
            for _ in range(3):
                await opened(envs, stack)
            assert told() == [*["away", "back"] * (number - 1), "away"]
            proxy.away = set()
            while len(told()) < 2 * number:
                await envs._dialler.changed.wait()
            await opened(envs, stack)
            assert told() == ["away", "back"] * number


async def test_a_replica_that_drains_keeps_its_sessions_and_new_ones_go_to_others() -> None:
    async with replicas() as (servers, _, envs), AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        first = [await opened(envs, stack) for _ in range(2)]
        draining = [tasks.create_task(servers[0].drain(1000))]
        later = [await opened(envs, stack) for _ in range(3)]
        async with connect(envs.url) as fresh:
            later.append(await opened(fresh, stack))
            for env in [*first, *later]:
                assert (await env.step(call("check"))).record is not None
            assert [await workers(server) for server in servers] == [[0], [1] * 5]
            draining.append(tasks.create_task(servers[1].drain(1000)))
            with pytest.raises(ServerFailed) as refused:
                await opened(fresh, stack)
            assert refused.value.code is Code.DRAINING
        for task in draining:
            task.cancel()


@pytest.mark.parametrize(
    ("text", "numbers"), [("1/1", range(0, 3)), ("1/2", range(0, 3)), ("2/2", range(3, 6))]
)
def test_the_workers_of_replicas_are_counted_through(text: str, numbers: range) -> None:
    replica = Replica.parse(text)
    assert replica.numbers(3) == numbers
    place = replica.place(numbers[1], 3)
    assert place == Place(numbers[1], 3 * replica.of, None, (numbers[0], numbers[2]))


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/2/3", "-1/2", "1/0"])
def test_what_is_no_replica_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="such as 1/2"):
        Replica.parse(text)


async def test_the_second_replica_has_workers_of_its_own_numbers() -> None:
    async with (
        asyncio.timeout(300),
        Front([DESK], workers=2, port=0, backend="process", replica=Replica(2, 2)) as front,
        connect(front.url) as envs,
        envs.open(DESK) as env,
    ):
        assert sorted(front.alive) == [2, 3]
        assert env.agent_token is not None
        assert env.agent_token[:2] in ("2.", "3.")
