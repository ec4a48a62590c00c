"""A live server under requests at random, by every role: each is answered, none with a failure of the
server's own, and nothing is left of them. ``--fuzz 100000`` makes more of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from turnwise import connect
from turnwise.envs.env import Env
from turnwise.envs.openenv.app import OWN
from turnwise.envs.registry import register
from turnwise.envs.serving.client import RemoteSession
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.faults import Code
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.serving.tokens import Tokens
from turnwise.envs.serving.wire import PATH, Role
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import ToolError, tool
from turnwise.envs.types import AgentView, EpisodeLimits, Task, call, text

TOKENS: dict[Role, str] = {"trainer": "the-trainers", "grader": "the-graders", "admin": "the-admins"}
SESSIONS = 4
BATCH = 20
"""Requests of one example."""

Result = TypeVar("Result")
Frame = tuple[str, str | bytes]
"""Who sends what."""


@register
class Ledge(Env):
    """A list that takes small numbers."""

    name = "test/ledge"
    limits = EpisodeLimits(turns=5)

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 3)

    async def reset(self, task: Task) -> AgentView:
        self.numbers: list[int] = []
        return text("put")

    @tool
    async def put(self, n: int) -> str:
        """Put a number."""
        if n > 5:
            raise ToolError("too large")
        self.numbers.append(n)
        await asyncio.sleep(0)
        return str(self.numbers)

    async def grade(self) -> float:
        return float(bool(self.numbers))


names = st.sampled_from(["a", "b", "c", "own"])
junk: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
put = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["put", "pat"]),
        "arguments": st.fixed_dictionaries({"n": st.integers(0, 9) | junk}),
    }
)
actions = st.one_of(
    st.fixed_dictionaries({"kind": st.just("calls"), "calls": st.lists(put, max_size=2)}),
    st.fixed_dictionaries({"kind": st.just("text"), "text": st.text(max_size=5)}),
    st.just({"kind": "finish"}),
)
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "open": {
        "env": st.just({"name": "test/ledge"}) | st.builds(lambda n: {"name": n}, st.text(max_size=5)),
        "task": st.builds(
            lambda n, s: {"kind": "seed", "seed": n, "split": s}, st.integers(), names | st.just("test")
        ),
    },
    "attach": {},
    "reset": {},
    "step": {"action": actions},
    "conclude": {"end": st.sampled_from(["submitted", "env_error", "nothing"])},
    "fork": {"twins": st.lists(names, max_size=3)},
    "snapshot": {"name": names},
    "restore": {"name": names},
    "records": {},
    "close": {},
}


@st.composite
def requests(draw: st.DrawFn) -> str:
    """A request, as it should be or with one thing wrong."""
    kind = draw(st.sampled_from(["step", "step", "reset", "open", *FIELDS]))
    fields = {"type": kind, "id": draw(st.integers(0, 400)), "session": draw(names)}
    fields |= {name: draw(strategy) for name, strategy in FIELDS[kind].items()}
    match draw(st.sampled_from(["right", "right", "right", "less", "other", "more"])):
        case "less":
            del fields[draw(st.sampled_from(sorted(fields)))]
        case "other":
            fields[draw(st.sampled_from(sorted(fields)))] = draw(junk)
        case "more":
            fields[draw(st.text(max_size=5))] = draw(junk)
    return json.dumps(fields)


frames = st.lists(
    st.tuples(
        st.sampled_from(["trainer", "trainer", "agent", "grader", "admin"]),
        st.one_of(
            requests(),
            requests(),
            requests(),
            st.text(max_size=20),
            st.binary(max_size=20),
            junk.map(json.dumps),
        ),
    ),
    min_size=BATCH,
    max_size=BATCH,
)


def _check(answer: dict[str, Any]) -> None:
    """A fault is one of those that requests at random may meet, and says what to do."""
    if answer["type"] == "fault":
        fault = answer["fault"]
        assert fault["code"] in set(Code) - {"internal", "deadline", "sandbox"}, fault
        assert fault["message"]
        assert fault["remedy"]


class Loop:
    """An event loop in a thread of its own, with a server and a client of each role."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._stack = AsyncExitStack()
        self.clients: dict[str, ClientWebSocketResponse] = {}

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(300)

    def __enter__(self) -> Loop:
        self._thread.start()
        self.run(self._begin())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _begin(self) -> None:
        enter: Callable[[Any], Coroutine[Any, Any, Any]] = self._stack.enter_async_context
        server = EnvServer(
            ["test/ledge"], port=0, token=Tokens.of(TOKENS), sessions=SESSIONS, patience=0.01, lease=0.0
        )
        self.server = await enter(server)
        self.envs = await enter(connect(server.url, token=TOKENS["trainer"]))
        self.own = await self._stack.enter_async_context(self.envs.open("test/ledge"))
        await self.own.reset()
        self.http = await enter(ClientSession())
        for role, token in {**TOKENS, "agent": self.own.agent_token}.items():
            headers = {"Authorization": f"Bearer {token}"}
            self.clients[role] = await enter(self.http.ws_connect(server.url + PATH, headers=headers))
            await self.clients[role].receive_json()

    async def play(self, batch: list[Frame]) -> None:
        """Send all of it at once; every line of a frame is answered."""
        owed: Counter[str] = Counter()
        for role, frame in batch:
            client = self.clients[role]
            owed[role] += 1 if isinstance(frame, bytes) else 1 + frame.count("\n")
            if isinstance(frame, bytes):
                await client.send_bytes(frame)
            else:
                await client.send_str(frame.replace('"own"', f'"{self.own.info.session}"'))
        async with asyncio.timeout(120):
            for role, lines in owed.items():
                while lines:
                    message = await self.clients[role].receive()
                    assert message.type is WSMsgType.TEXT, f"{role} is cut off: {message}"
                    for line in message.data.split("\n"):
                        _check(json.loads(line))
                        lines -= 1

    async def leave(self) -> None:
        """All go; then there is room again for as many as before."""
        for client in self.clients.values():
            await client.close()
        await self.own.close()
        async with connect(self.server.url, token=TOKENS["trainer"]) as envs, AsyncExitStack() as stack:
            opened: list[RemoteSession] = []
            async with asyncio.timeout(120):
                while len(opened) < SESSIONS:
                    with contextlib.suppress(ServerFailed):  # they are being closed
                        opened.append(await stack.enter_async_context(envs.open("test/ledge")))
            for env in opened:
                await env.reset()
                await env.step(call("put", n=1))


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    # A client answers pings while it reads, and some are not asked anything for long.
    monkeypatch.setattr("turnwise.envs.serving.server.HEARTBEAT", 1000.0)
    with Loop() as loop:
        yield loop


def test_every_frame_is_answered_and_none_breaks_the_server(loop: Loop, pytestconfig: pytest.Config) -> None:
    @settings(
        max_examples=pytestconfig.getoption("--fuzz") // BATCH,
        suppress_health_check=list(HealthCheck),
    )
    @given(frames)
    def check(batch: list[Frame]) -> None:
        loop.run(loop.play(batch))

    check()
    loop.run(loop.leave())


def test_every_http_request_is_answered(loop: Loop, pytestconfig: pytest.Config) -> None:
    paths = st.sampled_from(
        [
            *(
                "/health",
                "/metrics",
                f"{PATH}/status",
                PATH,
                f"{PATH}/environments",
                f"{PATH}/sessions",
                f"{PATH}/sessions/own",
            ),
            *(
                "/reset",
                "/step",
                "/state",
                "/schema",
                "/metadata",
                "/openapi.json",
                "/mcp",
                "/ws",
                "/ws/",
                "/",
            ),
            *("/test/ledge/splits", "/test/ledge/task", "/openenv/test/ledge/reset", "/openenv/x/reset"),
        ]
    )

    async def ask(method: str, path: str, token: str, body: bytes) -> None:
        headers = {"Authorization": token} if token else {}
        async with loop.http.request(method, loop.server.url + path, headers=headers, data=body) as answer:
            assert answer.status < 500
            if answer.status not in (200, 204):
                fault = await answer.json()
                if path.startswith(PATH) or path in OWN:
                    assert fault["code"] in set(Code)
                    assert fault["remedy"]
                else:
                    assert fault["detail"]

    @settings(max_examples=pytestconfig.getoption("--fuzz") // BATCH)
    @given(
        st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
        paths | st.text(max_size=10).map(lambda words: f"{PATH}/{words}"),
        st.sampled_from(["", "Bearer", "Basic x", *(f"Bearer {token}" for token in TOKENS.values())]),
        st.binary(max_size=50),
    )
    def check(method: str, path: str, token: str, body: bytes) -> None:
        loop.run(ask(method, path, token, body))

    check()
