"""What operators see: exact counts, a status without secrets, a page that runs only its own script."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from turnwise import connect
from turnwise.envs.errors import UsageError
from turnwise.envs.serving.client import RemoteEnvs
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.serving.status import Status
from turnwise.envs.serving.tokens import Tokens
from turnwise.envs.serving.wire import PATH
from turnwise.envs.types import call

TOKENS = Tokens.of({"trainer": "token-of-trainer", "grader": "token-of-grader", "admin": "token-of-admin"})
STATUS = f"{PATH}/status"
TIMES = ("turnwise_uptime_seconds", "turnwise_step_seconds_sum")


@asynccontextmanager
async def served(
    token: Tokens | None = None, sessions: int = 4, journal: Path | None = None
) -> AsyncIterator[EnvServer]:
    async with (
        asyncio.timeout(120),
        EnvServer(
            ["test/pad"], port=0, token=token, sessions=sessions, journal=journal, backend="process"
        ) as server,
    ):
        yield server


async def got(server: EnvServer, path: str, token: str | None = None) -> tuple[int, str]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with ClientSession() as http, http.get(server.url + path, headers=headers) as answer:
        return answer.status, await answer.text()


async def status_of(server: EnvServer) -> Status:
    code, body = await got(server, STATUS)
    assert code == 200
    return Status.model_validate_json(body)


def samples(exposition: str) -> dict[str, float]:
    """Every sample of worker 0 but times and the histogram's inner buckets, as ``name{label=value}``."""
    found = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            assert sample.labels.pop("worker", "0") == "0"
            if sample.name in TIMES or sample.labels.get("le", "+Inf") != "+Inf":
                continue
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name.removeprefix('turnwise_')}{{{labels}}}"] = sample.value
    return found


def size_of_files(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.iterdir()]


async def play_three(envs: RemoteEnvs) -> None:
    """One episode that is handed in, one whose sandbox dies, one that is given up, and a mistake."""
    async with envs.open("test/pad") as env:
        await env.reset()
        for action in (call("write", line="a"), call("write", line="b"), call("hand_in")):
            await env.step(action)
    async with envs.open("test/pad") as env:
        await env.reset()
        await env.step(call("lose"))
    async with envs.open("test/pad") as env:
        await env.reset()
    with pytest.raises(UsageError):
        async with envs.open("test/pda"):
            pass


async def test_every_count_after_three_episodes(tmp_path: Path) -> None:
    async with served(journal=tmp_path) as server:
        async with connect(server.url) as envs:
            await play_three(envs)
        while server._sockets:  # noqa: ASYNC110 - the server may notice last that the client is gone
            await asyncio.sleep(0.01)
        assert (await got(server, "/nowhere"))[0] == 404
        counts = samples((await got(server, "/metrics"))[1])
    written = sum(size_of_files(tmp_path))
    pools = {name: counts.pop(name) for name in list(counts) if name.startswith("sandboxes")}
    assert counts == {
        "build_info{version=0.1.0}": 1,
        "worker_up{}": 1,
        "draining{}": 0,
        "places{}": 4,
        "waiting{}": 0,
        "connections{}": 0,
        "sessions_lost_total{}": 0,
        "journal_bytes_total{}": written,
        "sessions_open{env=test/pad}": 0,
        "sessions_opened_total{env=test/pad}": 3,
        "sessions_closed_total{end=submitted,env=test/pad}": 1,
        "sessions_closed_total{end=infra_error,env=test/pad}": 1,
        "sessions_closed_total{end=none,env=test/pad}": 1,
        "steps_total{env=test/pad}": 4,
        "step_seconds_count{env=test/pad}": 4,
        "step_seconds_bucket{env=test/pad,le=+Inf}": 4,
        "infra_failures_total{env=test/pad}": 1,
        "requests_total{code=ok,type=open}": 3,
        "requests_total{code=usage,type=open}": 1,
        "requests_total{code=ok,type=reset}": 3,
        "requests_total{code=ok,type=step}": 4,
        "requests_total{code=ok,type=close}": 3,
        "requests_total{code=ok,type=GET /turnwise/v1}": 1,
        "requests_total{code=http_404,type=other}": 1,
    }
    assert pools["sandboxes{state=in_use}"] == 0
    assert pools["sandboxes_created_total{}"] >= 1
    assert pools["sandboxes_died_total{}"] == 1


async def test_the_status_shows_sessions_as_they_stand_and_who_waits() -> None:
    async with served(sessions=1) as server, connect(server.url) as envs, envs.open("test/pad") as env:
        (new,) = (await status_of(server)).sessions
        assert (new.session, new.env, new.state, new.turn) == (env.info.session, "test/pad", "new", 0)
        await env.reset()
        running = asyncio.create_task(env.step(call("hang")))
        waiting = asyncio.create_task(envs.open("test/pad").__aenter__())
        while (status := await status_of(server)).waiting == 0 or status.sessions[0].state != "running":
            pass
        assert (status.places, status.connections) == (1, 1)
        assert status.sandboxes is not None
        assert status.sandboxes.in_use == 1
        for task in (running, waiting):
            task.cancel()
        await asyncio.wait([running, waiting])


async def test_an_error_is_kept_with_its_session_but_not_what_an_environments_code_said() -> None:
    async with served() as server, connect(server.url) as envs:
        async with envs.open("test/pad") as lost:
            await lost.reset()
            await lost.step(call("lose"))
        async with envs.open("test/pad?fault=grade") as bug:
            await bug.reset()
            await bug.step(call("write", line="x"))
            await bug.step(call("hand_in"))
        newest, oldest = (await status_of(server)).errors
    assert (oldest.code, oldest.session, oldest.env) == ("infra_error", lost.info.session, "test/pad")
    assert oldest.message.startswith("SandboxDied: ")
    assert (newest.code, newest.session, newest.message) == ("env_error", bug.info.session, "KeyError")


@pytest.mark.parametrize("path", [STATUS, "/metrics"])
async def test_operators_alone_see_how_the_server_does(path: str) -> None:
    async with (
        served(TOKENS) as server,
        connect(server.url, token="token-of-trainer") as envs,
        envs.open("test/pad") as env,
    ):
        answers, agent = {}, env.agent_token
        others: dict[str, str | None] = {"agent": agent, "nobody": None, "stranger": "x"}
        for name, token in [*TOKENS.roles.items(), *others.items()]:
            answers[name], body = await got(server, path, token)
            assert agent is not None
            assert not [secret for secret in (*TOKENS.roles.values(), agent) if secret in body]
    refused = {"grader": 403, "agent": 403, "nobody": 401, "stranger": 401}
    assert answers == {"trainer": 200, "admin": 200, **refused}


async def test_without_tokens_a_page_of_another_site_sees_nothing() -> None:
    async with served() as server, ClientSession() as http:
        for header in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            async with http.get(server.url + STATUS, headers=header) as answer:
                assert answer.status == 403


async def test_the_page_runs_its_own_script_and_nothing_else() -> None:
    async with served(TOKENS) as server, ClientSession() as http, http.get(server.url) as answer:
        text, policy = await answer.text(), answer.headers["Content-Security-Policy"]
    for tag in ("script", "style"):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert f"'sha256-{b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert not re.search(r"\son\w+=|https?://|innerHTML| style=", text)
    assert "prefers-color-scheme: dark" in text


def references(part: Any) -> set[str]:
    """Every ``$ref`` within a document."""
    if isinstance(part, list):
        return set().union(*map(references, part))
    if not isinstance(part, dict):
        return set()
    own = {part["$ref"]} if "$ref" in part else set()
    return own.union(*map(references, part.values()))


async def test_the_document_describes_every_route_there_is() -> None:
    sockets = {("get", path) for path in (PATH, "/ws", "/mcp")}
    async with served(TOKENS) as server:
        told = json.loads((await got(server, "/openapi.json"))[1])
        routed = {
            (route.method.lower(), route.resource.canonical)
            for route in server.routes
            if route.resource is not None
            and route.method != "HEAD"
            and not route.resource.canonical.startswith("/openenv/")
        }
    assert told["openapi"] == "3.1.0"
    assert told["info"]["version"] == "1.0.0"
    described = {(method, path) for path, item in told["paths"].items() for method in item}
    assert described == routed - sockets
    schemas = told["components"]["schemas"]
    assert {reference.removeprefix("#/components/schemas/") for reference in references(told)} <= set(schemas)
    for path, item in told["paths"].items():
        for operation in item.values():
            names = [parameter["name"] for parameter in operation.get("parameters", ())]
            assert names == re.findall(r"\{(\w+)\}", path)
            assert operation["summary"]
            assert ("security" in operation) == ({"401", "403"} <= set(operation["responses"]))


async def test_a_method_that_a_path_has_not_is_refused_with_those_it_has() -> None:
    async with served() as server, ClientSession() as http, http.post(f"{server.url}/metrics") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET,HEAD"
        assert (await answer.json())["code"] == "invalid_request"


async def test_a_full_server_counts_those_whom_it_turns_away() -> None:
    async with (
        served(sessions=1) as server,
        connect(server.url) as envs,
        envs.open("test/pad") as env,
    ):
        await env.reset()
        with pytest.raises(ServerFailed):
            await env.fork(1)
        status = await status_of(server)
    assert status.faults == {"busy": 1}
    assert status.errors == ()
