"""Connections that drop: sessions outlive them for a lease, and nothing that is asked again is done twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse

from tests.envs.conftest import relay
from tests.envs.serving.tally import Tally, serving
from turnwise import connect
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.ledger import KEPT
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.serving.wire import LEASE_HEADER, PATH
from turnwise.envs.types import TextAction, call

Json = dict[str, Any]


@pytest.fixture(autouse=True)
def _gate() -> None:
    Tally.gate, Tally.waiting, Tally.begun = asyncio.Event(), asyncio.Event(), 0


async def test_a_dropped_connection_is_made_anew_and_what_ran_goes_on() -> None:
    async with (
        serving() as server,
        relay(server) as way,
        connect(way.url) as envs,
        envs.open("test/tally") as env,
        envs.open("test/tally", seed=1) as other,
    ):
        await env.reset()
        await other.reset()
        waiting = asyncio.create_task(env.step(call("add_later", n=1)))
        await Tally.waiting.wait()
        way.cut()
        assert (await other.step(call("add", n=5))).view.text == "[5]", "after the return"
        Tally.gate.set()
        assert (await waiting).view.text == "[1]"
        for n in range(2, 5):
            way.cut()
            await env.step(call("add", n=n))
        assert (await env.step(call("add", n=5))).view.text == "[1, 2, 3, 4, 5]"
        assert env.turn == 5


async def test_an_agents_side_comes_back_too() -> None:
    async with serving() as server, connect(server.url) as envs, envs.open("test/tally") as env:
        await env.reset()
        async with relay(server) as way, connect(way.url, token=env.agent_token) as side:
            own = await side.attach()
            for n in range(3):
                way.fates.append("mute")
                await own.step(call("add", n=n))
        assert (await env.step(call("add", n=3))).view.text == "[0, 1, 2, 3]"


async def test_a_client_that_stays_away_loses_its_sessions_and_another_gets_the_place() -> None:
    async with (
        serving(lease=0.3, sessions=1) as server,
        connect(server.url) as others,
        relay(server) as way,
        connect(way.url) as envs,
        envs.open("test/tally") as env,
    ):
        await env.reset()
        waiting = asyncio.create_task(env.step(call("add_later", n=1)))
        await Tally.waiting.wait()
        way.open = False
        way.cut()
        with pytest.raises(ServerFailed, match="lost"):
            await waiting
        async with others.open("test/tally") as other:
            await other.reset()
        with pytest.raises(ServerFailed, match="lost"):
            await env.step(call("add", n=1))
        way.open = True
        async with envs.open("test/tally") as again:
            await again.reset()


async def test_an_attempt_to_return_from_before_is_not_what_an_open_fails_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        serving(lease=0.0) as server,
        relay(server) as way,
        connect(way.url) as envs,
        envs.open("test/tally") as env,
    ):
        way.open = False
        way.cut()
        while not env._desk.link.lost:
            await envs._dialler.changed.wait()
        way.stuck.clear()
        way.open = True
        with monkeypatch.context() as patch:
            patch.setattr("turnwise.envs.serving.dialler.CONNECT_SECONDS", 0.3)
            while not way.connections:  # noqa: ASYNC110 - an attempt is under way then
                await asyncio.sleep(0.01)
        way.stuck = asyncio.Event()  # which those who are stuck know nothing of
        way.stuck.set()
        async with envs.open("test/tally") as again:
            await again.reset()


async def test_who_is_neither_let_in_nor_refused_waits_no_longer_than_a_lease() -> None:
    async with (
        serving(lease=0.5) as server,
        relay(server) as way,
        connect(way.url) as envs,
        envs.open("test/tally") as env,
    ):
        await env.reset()
        way.stuck.clear()
        way.cut()
        async with asyncio.timeout(100):
            with pytest.raises(ServerFailed, match="lost"):
                await env.step(call("add", n=1))


async def test_a_client_may_be_away_as_often_as_its_connections_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnwise.envs.serving.link.LONGEST_PAUSE", 0.05)
    async with (
        serving() as server,
        relay(server) as way,
        connect(way.url) as envs,
        envs.open("test/tally") as env,
    ):
        await env.reset()
        link = env._desk.link
        way.cut()
        for up in (False, True):
            while link.up is not up:
                await envs._dialler.changed.wait()
        await asyncio.sleep(0.1)  # it lasts, and nobody asks anything
        link._end = link._since  # the lease of the first absence is over
        way.cut()
        assert (await env.step(call("add", n=1))).view.text == "[1]"


async def test_a_way_that_takes_in_nothing_is_given_up_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        serving() as server,
        relay(server) as way,
        connect(way.url) as envs,
        envs.open("test/tally") as env,
    ):
        await env.reset()
        monkeypatch.setattr("turnwise.envs.serving.outbox.SEND_SECONDS", 0.2)
        way.stuck.clear()
        large = asyncio.create_task(env.step(TextAction(text="x" * (12 << 20))))
        while env._desk.link.up:
            await envs._dialler.changed.wait()
        monkeypatch.undo()
        way.stuck.set()
        assert (await large).record is not None
        assert (await env.step(call("add", n=1))).view.text == "[1]"


async def test_a_client_that_comes_back_too_late_can_begin_anew() -> None:
    async with (
        serving(lease=0.0) as server,
        relay(server) as way,
        connect(way.url) as envs,
        envs.open("test/tally") as env,
    ):
        link = env._desk.link
        link.welcome = link.welcome.model_copy(update={"lease_seconds": 1000.0})
        await env.reset()
        waiting = asyncio.create_task(env.step(call("add_later", n=1)))
        await Tally.waiting.wait()
        way.cut()
        with pytest.raises(ServerFailed, match="given up"):
            await waiting
        with pytest.raises(ServerFailed, match="no session"):
            await env.step(call("add", n=1))
        async with envs.open("test/tally") as again:
            await again.reset()
            assert (await again.step(call("add", n=1))).view.text == "[1]"


async def test_a_client_that_says_goodbye_gives_up_its_sessions_at_once() -> None:
    async with serving(lease=1000.0, sessions=1) as server:
        async with raw(server) as client:
            await client.open()
        async with connect(server.url) as envs, envs.open("test/tally") as env:
            await env.reset()


# ---------------------------------------------------------------- by hand


class Raw:
    """A WebSocket, in and out of JSON."""

    def __init__(self, socket: ClientWebSocketResponse, welcome: Json) -> None:
        self.socket, self.welcome = socket, welcome
        self._lines: list[str] = []
        """Of the last frame, those to come."""

    async def send(self, number: int, kind: str, session: str = "s", **fields: Any) -> None:
        await self.socket.send_json({"type": kind, "id": number, "session": session, **fields})

    async def get(self) -> Json:
        if not self._lines:
            self._lines.extend((await self.socket.receive_str()).split("\n"))
        answer: Json = json.loads(self._lines.pop(0))
        return answer

    async def ask(self, number: int, kind: str, session: str = "s", **fields: Any) -> Json:
        await self.send(number, kind, session, **fields)
        answer = await self.get()
        assert answer["id"] == number
        return answer

    async def add(self, number: int, n: int, tool: str = "add") -> Json:
        return await self.ask(number, "step", action=adding(n, tool))

    async def open(self) -> None:
        await self.ask(0, "open", env={"name": "test/tally"}, task={"kind": "seed"})
        await self.ask(1, "reset")


def adding(n: int, tool: str = "add") -> Json:
    return {"kind": "calls", "calls": [{"name": tool, "arguments": {"n": n}}]}


def seen(answer: Json) -> str:
    words: str = answer["step"]["view"]["content"][0]["text"]
    return words


@asynccontextmanager
async def raw(server: EnvServer, key: str | None = None, token: str | None = None) -> AsyncIterator[Raw]:
    headers = {} if key is None else {LEASE_HEADER: key}
    headers |= {} if token is None else {"Authorization": f"Bearer {token}"}
    async with ClientSession(headers=headers) as http, http.ws_connect(server.url + PATH) as socket:
        yield Raw(socket, await socket.receive_json())


async def test_a_repeated_request_gets_the_reply_of_the_first_time() -> None:
    async with serving() as server, raw(server) as client:
        opened = await client.ask(0, "open", env={"name": "test/tally"}, task={"kind": "seed"})
        assert opened == await client.ask(0, "open", env={"name": "test/tally"}, task={"kind": "seed"})
        assert await client.ask(1, "reset") == await client.ask(1, "reset")
        step = await client.add(2, 7)
        assert step == await client.add(2, 7)
        assert seen(await client.add(3, 1)) == "[7, 1]"
        fork = await client.ask(4, "fork", twins=["t"])
        assert fork == await client.ask(4, "fork", twins=["t"])
        assert await client.ask(5, "conclude", end="submitted") == await client.ask(
            5, "conclude", end="submitted"
        )


async def test_a_repeat_of_what_still_runs_waits_for_it() -> None:
    async with serving() as server, raw(server) as client:
        await client.open()
        for _ in range(2):
            await client.send(2, "step", action=adding(1, "add_later"))
        await Tally.waiting.wait()
        async with raw(server, client.welcome["lease"]) as again:
            assert again.welcome["lease"] == client.welcome["lease"]
            await again.send(2, "step", action=adding(1, "add_later"))
            Tally.gate.set()
            assert seen(await again.get()) == "[1]"
            assert seen(await again.add(3, 2)) == "[1, 2]"
    assert Tally.begun == 1


async def test_an_id_stands_for_one_request_and_old_ones_are_not_carried_out() -> None:
    async with serving() as server, raw(server) as client:
        await client.open()
        await client.add(2, 1)
        assert (await client.add(2, 5))["fault"]["code"] == "duplicate_request"
        for number in range(3, 3 + KEPT):
            await client.add(number, number)
        assert (await client.add(2, 1))["fault"]["code"] == "duplicate_request"
        assert seen(await client.add(100, 0)) == str([1, *range(3, 3 + KEPT), 0])


async def test_a_lease_is_its_callers_alone() -> None:
    async with serving() as server, raw(server) as client:
        await client.open()
        async with raw(server, "guessed") as other:
            assert other.welcome["lease"] not in ("guessed", client.welcome["lease"])
        key, info = client.welcome["lease"], (await client.ask(2, "attach"))["info"]
        async with raw(server, key, info["agent_token"]) as agent:
            assert agent.welcome["lease"] != key
        assert seen(await client.add(3, 1)) == "[1]", "nobody took its place"
