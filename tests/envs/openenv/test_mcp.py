"""OpenEnv's JSON-RPC: over HTTP, over ``/mcp``, in frames of ``/ws``; sessions made over HTTP."""

from __future__ import annotations

from typing import Any

import pytest


def request(method: str, number: Any = 1, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("{", -32700),
        ("[]", -32700),
        ("3", -32700),
        ("{}", -32600),
        ('{"jsonrpc":"1.0","method":"x"}', -32600),
        ('{"jsonrpc":"2.0","method":"x","zz":1}', -32600),
        ('{"jsonrpc":"2.0","method":"x","params":[]}', -32600),
        ('{"jsonrpc":"2.0","method":"x","id":1.5}', -32600),
        ('{"jsonrpc":"2.0","method":"x"}', -32601),
    ],
)
async def test_what_cannot_be_read_is_answered_all_the_same(served: Any, body: str, code: int) -> None:
    for headers in ({}, {"Content-Type": "text/plain"}):
        status, reply = await served.post("/mcp", body, **headers)
        assert (status, reply["jsonrpc"], reply["id"], set(reply["error"])) == (
            200,
            "2.0",
            None,
            {"code", "message", "data"},
        )
        assert reply["error"]["code"] == code


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("no/such", {}, -32601),
        ("initialize", {}, -32601),
        ("ping", {}, -32601),
        ("tools/call", {}, -32602),
        ("tools/call", {"name": "zz"}, -32603),
        ("tools/call", {"name": "add", "arguments": [1]}, -32603),
        ("tools/call", {"name": "refuse"}, -32603),
        ("tools/call", {"name": "broken"}, -32603),
        ("tools/call", {"name": "add", "session_id": "zz"}, -32602),
        ("tools/list", {"session_id": "zz"}, -32602),
        ("openenv/session/close", {}, -32602),
        ("openenv/session/close", {"session_id": "zz"}, -32602),
        ("openenv/session/close", {"session_id": 5}, -32602),
    ],
)
async def test_errors_by_their_numbers(served: Any, method: str, params: Any, code: int) -> None:
    assert (await served.rpc(method, params))["error"]["code"] == code


async def test_tools_without_a_session(served: Any) -> None:
    tools = (await served.rpc("tools/list"))["result"]["tools"]
    assert set(tools[0]) == {"name", "description", "inputSchema"}
    for _ in range(2):
        called = (await served.rpc("tools/call", {"name": "add", "arguments": {"n": 2}}))["result"]
        assert (called["data"], called["content"], called["isError"]) == (
            "2",
            [{"type": "text", "text": "2"}],
            False,
        )
    picture = (await served.rpc("tools/call", {"name": "infinite"}))["result"]["content"]
    assert [(part["type"], part.get("mimeType")) for part in picture] == [
        ("text", None),
        ("image", "image/png"),
    ]


async def test_a_session_over_http_is_attached_to_let_go_and_closed(served: Any) -> None:
    name = (await served.rpc("openenv/session/create"))["result"]["session_id"]
    attached = f"/ws?session_id={name}"
    async with served.wire(attached) as wire:
        await wire.ask("reset")
        await wire.call("add", n=1)
        async with served.wire(attached) as second:
            assert (await second.get())["data"]["code"] == "SESSION_ERROR"
            await second.send({"type": "state"})
            await second.closed()
        called = await served.rpc("tools/call", {"name": "add", "arguments": {"n": 1}, "session_id": name})
        assert called["result"]["data"] == "2", "the same episode"
        await wire.send({"type": "close"})
        await wire.closed()
    async with served.wire(attached) as wire:
        assert (await wire.ask("state"))["data"]["step_count"] == 2, "it goes on"
        closing = (await served.rpc("openenv/session/close", {"session_id": name}))["result"]
        assert closing == {"session_id": name, "closed": False, "closing": True}
        assert (await wire.ask("state"))["data"]["step_count"] == 2
        await wire.send({"type": "close"})
        await wire.closed()
    async with served.wire(attached) as gone:
        error = (await gone.get())["data"]
        assert (error["code"], name in error["message"]) == ("SESSION_ERROR", True)
        await gone.send({"type": "state"})
        await gone.closed()
    other = (await served.rpc("openenv/session/create"))["result"]["session_id"]
    closed = (await served.rpc("openenv/session/close", {"session_id": other}))["result"]
    assert closed == {"session_id": other, "closed": True}


async def test_json_rpc_in_frames_of_a_session(wire: Any) -> None:
    await wire.ask("reset")
    bad = await wire.ask("mcp", {"method": "x"})
    assert (bad["type"], bad["data"]["error"]["code"]) == ("mcp", -32600)
    called = await wire.ask("mcp", request("tools/call", name="add", arguments={"n": 3}))
    assert (called["type"], called["data"]["id"], called["data"]["result"]["data"]) == ("mcp", 1, "3")
    assert (await wire.ask("state"))["data"]["step_count"] == 1
    own = (await wire.ask("mcp", request("openenv/session/create")))["data"]["result"]["session_id"]
    again = (await wire.ask("mcp", request("openenv/session/create")))["data"]["result"]["session_id"]
    assert own == again, "that of the socket"
    refused = await wire.ask("mcp", request("openenv/session/close", session_id=own))
    assert refused["data"]["error"]["code"] == -32600


async def test_a_socket_of_json_rpc_is_a_session(serve: Any) -> None:
    async with serve(sessions=1) as served:
        async with served.wire("/mcp") as wire:
            for text, code in (("{", -32700), ("[]", -32600), ("{}", -32600)):
                await wire.send(text)
                assert (await wire.get())["error"]["code"] == code
            for total in ("2", "4"):
                await wire.send(request("tools/call", number="a", name="add", arguments={"n": 2}))
                reply = await wire.get()
                assert (reply["id"], reply["result"]["data"]) == ("a", total), "one episode"
            async with served.wire("/mcp") as refused:
                error = (await refused.get())["error"]
                assert (error["code"], error["data"]) == (
                    -32000,
                    {"active_sessions": 1, "max_sessions": 1},
                )
                await refused.send("{}")
                await refused.closed()
        await served.until_there_is_room()
        async with served.wire("/mcp") as wire:
            await wire.send(request("tools/list"))
            assert (await wire.get())["result"]["tools"]


async def test_a_session_that_nobody_wants_any_more_gives_its_place_back(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwise.envs.openenv.directory.IDLE_SECONDS", 0.05)
    async with serve(sessions=1) as served:
        await served.rpc("openenv/session/create")
        while "error" in await served.rpc("openenv/session/create"):
            pass


async def test_two_calls_at_once_take_turns(served: Any) -> None:
    name = (await served.rpc("openenv/session/create"))["result"]["session_id"]
    async with served.wire(f"/ws?session_id={name}") as wire:
        await wire.ask("reset")
        await wire.send({"type": "step", "data": {"tool_name": "wait"}})
        await served.abacus.waiting.wait()
        await wire.send({"type": "step", "data": {"tool_name": "add", "arguments": {"n": 1}}})
        served.abacus.go_on.set()
        called = await served.rpc("tools/call", {"name": "add", "arguments": {"n": 1}, "session_id": name})
        results = {(await wire.get())["data"]["observation"]["result"] for _ in range(2)}
        assert "waited" in results
        assert results | {called["result"]["data"]} == {"waited", "1", "2"}
