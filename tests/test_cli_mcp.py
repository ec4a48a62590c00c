"""``turnwise mcp``: the official client, over standard input and output and over HTTP, in real sandboxes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent

from tests.processes import offspring, until_ended
from turnwise.cli import run
from turnwise.envs.local import LocalEnvs
from turnwise.envs.types import CallAction, ToolCall
from turnwise.sandbox.backends import probes

BACKEND = next(probe.backend for probe in probes() if probe.available)
DESK = "tools/configdesk"
MAIN = ("-c", "from turnwise.cli import main; main()", "mcp")
TOKEN = "not-to-be-shown"
CLIENT = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}
INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": CLIENT}


async def demonstration(seed: int) -> list[ToolCall]:
    """What the oracle calls."""
    calls: list[ToolCall] = []
    async with (
        LocalEnvs(backend=BACKEND, capacity=1) as envs,
        envs.open(DESK, seed=seed, split="test") as env,
    ):
        await env.reset()
        while env.end is None:
            action = await env.env.oracle()
            assert isinstance(action, CallAction)
            calls += action.calls
            await env.step(action)
    return calls


async def solve(client: Client, calls: list[ToolCall]) -> str:
    """Carry the calls out; what the last one said."""
    for call in calls:
        result = await client.call_tool(call.name, call.arguments)
        assert not result.is_error
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def recorded(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of each episode."""
    episodes: dict[str, list[dict[str, Any]]] = {}
    for line in file.read_text().splitlines():
        turn = json.loads(line)
        episodes.setdefault(turn["episode"], []).append(turn["record"])
    return episodes


@asynccontextmanager
async def served(
    *words: str, **environment: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, str]]:
    """The command serving HTTP, the line that it begins with and the URL in it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *MAIN, DESK, "--http", "--port", "0", "--backend", BACKEND, *words),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(300):
            line = (await process.stdout.readline()).decode()
            yield process, line, line.partition(" at ")[2].partition(",")[0]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_desk_is_solved_over_standard_input_and_output(mode: str, tmp_path: Path) -> None:
    words = [*MAIN, DESK, "--seed", "4", "--backend", BACKEND, "--record", str(tmp_path / "turns")]
    server = StdioServerParameters(command=sys.executable, args=words, env=dict(os.environ))
    calls = await demonstration(seed=4)
    async with asyncio.timeout(300), Client(server, mode=mode) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} >= {call.name for call in calls}
        assert (await solve(client, calls)).endswith("The episode has ended (submitted).")
    (records,) = recorded(tmp_path / "turns").values()
    assert len(records) == len(calls)
    assert records[-1]["score"] == 1.0
    assert [name for record in records for name in record["milestones"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_and_its_sandboxes_while_it_waits_for_input(number: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *MAIN, DESK, "--backend", BACKEND),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(300):
        process.stdin.write(f"{json.dumps(INITIALIZE)}\n".encode())
        assert b"instructions" in await process.stdout.readline()
        below = offspring(process.pid)
        assert below
        process.send_signal(number)
        assert await process.wait() == -number
        await asyncio.to_thread(until_ended, below)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_each_session_over_http_is_an_episode(mode: str, tmp_path: Path) -> None:
    calls = await demonstration(seed=4)
    async with served("--seed", "4", "--record", str(tmp_path / "turns")) as (process, line, url):
        assert "for every program on this machine" in line
        async with Client(url, mode=mode) as one, Client(url, mode=mode) as other:
            said = await asyncio.gather(solve(one, calls), solve(other, calls))
        assert [words.endswith("The episode has ended (submitted).") for words in said] == [True, True]
        assert [records[-1]["score"] for records in recorded(tmp_path / "turns").values()] == [1.0, 1.0]
        async with Client(url, mode=mode) as client:
            assert client.instructions
            below = offspring(process.pid)
            assert below
            process.send_signal(signal.SIGTERM)
            _, errors = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in errors
    await asyncio.to_thread(until_ended, below)


async def test_over_http_only_callers_with_the_token_are_served() -> None:
    async with served(TURNWISE_TOKEN=TOKEN) as (_, line, url):
        assert TOKEN not in line
        assert "for callers with the token" in line
        async with httpx2.AsyncClient() as stranger:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
                answer = await stranger.post(url, json={}, headers=headers)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"})
        async with http, Client(streamable_http_client(url, http_client=http)) as client:
            assert (await client.list_tools()).tools


async def test_over_http_there_is_no_call_without_a_session() -> None:
    envelope = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    }
    call = {"name": "check", "arguments": {}, "_meta": envelope}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    headers = {
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "check",
        "Accept": "application/json, text/event-stream",
    }
    async with served() as (_, _, url), httpx2.AsyncClient() as http:
        answer = (await http.post(url, json=body, headers=headers)).json()
    assert "an episode needs a session" in answer["error"]["message"]
    assert "2025-11-25" in answer["error"]["data"]["supported"]


async def test_a_web_page_cannot_call_what_is_served_on_loopback() -> None:
    async with served() as (_, _, url), httpx2.AsyncClient() as http:
        for headers in ({"Host": "attacker.example"}, {"Origin": "http://attacker.example"}):
            answer = await http.post(url, json={}, headers={"Content-Type": "application/json", **headers})
            assert answer.status_code in (403, 421)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tools/confgdesk"], "did you mean 'tools/configdesk'?"),
        ([DESK, "--split", "tset"], "did you mean 'test'?"),
        ([DESK, "--backend", "dcoker"], "namespaces"),
        ([DESK, "--port", "1"], "go with --http"),
        ([DESK, "--http", "--host", "0.0.0.0"], "TURNWISE_TOKEN"),
        ([DESK, "--http", "--token", "two words"], "token"),
        ([DESK, "--record", "no/such/folder/turns"], "no/such/folder/turns"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TURNWISE_TOKEN", raising=False)
    assert run(["mcp", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.count("\n") == 1


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["mcp", DESK, "--http", "--port", str(port)]) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


WITHOUT_MCP = """
import sys
from tests.processes import offspring, until_ended
from turnwise.cli import run
sys.modules["mcp"] = sys.modules["mcp_types"] = None
print(run(["mcp", "tools/configdesk"]))
"""


def test_without_mcp_the_extra_is_named() -> None:
    result = subprocess.run([sys.executable, "-c", WITHOUT_MCP], capture_output=True, text=True, check=True)
    assert result.stdout == "2\n"
    assert "pip install 'turnwise[mcp]'" in result.stderr
