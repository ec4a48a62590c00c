"""OpenEnv's ``/ws``: frames and their replies, errors, order, places, keepalive and sizes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from typing import Any

import pytest
from aiohttp import WSMsgType, WSServerHandshakeError

from turnwise import connect
from turnwise.envs.types import call


async def test_an_episode(wire: Any) -> None:
    assert await wire.ask("state") == {
        "type": "state",
        "data": {"episode_id": None, "step_count": 0, "end": None},
    }
    answer = await wire.ask("reset", {"seed": 3, "episode_id": "ep", "foo": 9})
    assert (set(answer), answer["type"]) == ({"type", "data"}, "observation")
    first = answer["data"]
    assert (first["reward"], first["done"], set(first)) == (
        None,
        False,
        {"observation", "reward", "done", "metadata"},
    )
    assert first["metadata"]["task"] == {"env": "test/abacus", "id": "train/3", "seed": 3}
    seen = first["observation"]
    assert seen["metadata"] == {}
    assert seen["guide"].startswith("Add up")
    assert base64.b64decode(seen["images"][0]["data"]) == bytes(range(256))
    goal = int(seen["text"].split()[-1])
    turn = await wire.call("add", n=goal)
    assert turn["observation"] == {"metadata": {}, "tool_name": "add", "result": str(goal), "error": None}
    assert (turn["reward"], turn["done"]) == (None, False)
    assert turn["metadata"]["milestones"] == ["begun"]
    assert (await wire.ask("state"))["data"] == {"episode_id": "ep", "step_count": 1, "end": None}
    last = await wire.call("finish", answer="done")
    assert (last["reward"], last["done"], last["metadata"]["end"]) == (1.0, True, "submitted")
    assert (await wire.ask("state"))["data"] == {"episode_id": "ep", "step_count": 2, "end": "submitted"}
    late = await wire.error({"type": "step", "data": {"tool_name": "add", "arguments": {"n": 1}}})
    assert late["code"] == "EXECUTION_ERROR"
    again = (await wire.ask("reset"))["data"]
    assert again["done"] is False
    state = (await wire.ask("state"))["data"]
    assert state["step_count"] == 0
    assert state["episode_id"] not in (None, "ep")


async def test_a_reset_chooses_the_task(served: Any, wire: Any) -> None:
    async def task(**data: Any) -> Any:
        answer = await wire.ask("reset", data)
        return answer["data"]["metadata"]["task"]["id"]

    assert await task(seed=7) == "train/2", "counted round"
    assert await task(seed=-1) == "train/4", "no limits here"
    assert await task(seed=1, split="test") == "test/1"
    known = (await served.post("/test/abacus/task", {"split": "validation", "index": 4}))[1]["task"]
    assert await task(task=known) == "validation/4"
    assert len({await task(seed=None) for _ in range(40)}) == 5, "at random"
    known["public"]["instruction"] = "another"
    assert "reads differently" in (await wire.error({"type": "reset", "data": {"task": known}}))["message"]
    error = await wire.error({"type": "reset", "data": {"split": "trian"}})
    assert (error["code"], "train" in error["message"]) == ("EXECUTION_ERROR", True)
    assert (await wire.ask("state"))["data"]["episode_id"] is not None, "the last episode goes on"


async def test_the_tools_are_listed_before_the_reset_and_are_no_turn(wire: Any) -> None:
    answer = (await wire.ask("step", {"type": "list_tools"}))["data"]
    tools = {tool["name"]: tool for tool in answer["observation"]["tools"]}
    assert list(tools) == ["add", "refuse", "wait", "broken", "infinite", "finish", "say"]
    assert set(tools["add"]) == {"name", "description", "input_schema"}
    assert tools["add"]["input_schema"]["required"] == ["n"]
    assert (answer["reward"], answer["done"]) == (None, False)
    early = await wire.error({"type": "step", "data": {"tool_name": "add", "arguments": {"n": 1}}})
    assert (early["code"], "reset" in early["message"]) == ("EXECUTION_ERROR", True)
    await wire.ask("reset")
    await wire.ask("step", {"type": "list_tools"})
    assert (await wire.ask("state"))["data"]["step_count"] == 0


@pytest.mark.parametrize(
    ("name", "arguments", "kind"),
    [
        ("zz", {}, "tool_not_found"),
        ("add", {}, "invalid_args"),
        ("add", {"n": "x"}, "invalid_args"),
        ("add", [1], "invalid_args"),
        ("add", None, "invalid_args"),
        ("refuse", {}, "execution_error"),
        ("finish", {"answer": 5}, "invalid_args"),
        ("say", {}, "invalid_args"),
        ("say", {"text": "unheard"}, "execution_error"),
    ],
)
async def test_what_a_model_gets_wrong_is_a_turn(wire: Any, name: str, arguments: Any, kind: str) -> None:
    await wire.ask("reset")
    answer = await wire.ask("step", {"type": "call_tool", "tool_name": name, "arguments": arguments})
    assert answer["type"] == "observation"
    seen = answer["data"]["observation"]
    assert (seen["tool_name"], seen["result"], seen["error"]["error_type"]) == (name, None, kind)
    assert seen["error"]["message"]
    assert answer["data"]["metadata"]["valid"] is False
    assert (await wire.ask("state"))["data"]["step_count"] == 1


async def test_words_pictures_and_a_finish_of_the_environments_own(serve: Any) -> None:
    async with serve("test/mute", "test/abacus") as served:
        async with served.wire("/openenv/test/abacus/ws") as wire:
            await wire.ask("reset")
            assert (await wire.call("say", text="hi"))["observation"]["result"] == "hello"
            picture = (await wire.call("infinite"))["observation"]
            assert picture["result"] == "see"
            assert picture["images"][0]["media_type"] == "image/png"
        async with served.wire() as wire:
            listed = await wire.ask("step", {"type": "list_tools"})
            assert [t["name"] for t in listed["data"]["observation"]["tools"]] == ["finish"]
            await wire.ask("reset", {"seed": 0})
            last = await wire.call("finish", how="well")
            assert (last["observation"]["result"], last["reward"]) == ("finished well", 1.0)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "INVALID_JSON"),
        ('{"type": "reset", "data": {"seed": NaN}}', "INVALID_JSON"),
        ({"type": "zz"}, "UNKNOWN_TYPE"),
        ({"type": ["reset"]}, "UNKNOWN_TYPE"),
        ({}, "UNKNOWN_TYPE"),
        ({"type": "step"}, "VALIDATION_ERROR"),
        ({"type": "step", "data": 3}, "VALIDATION_ERROR"),
        ({"type": "step", "data": {}}, "VALIDATION_ERROR"),
        ({"type": "step", "data": {"tool_name": 3}}, "VALIDATION_ERROR"),
        ({"type": "step", "data": {"tool_name": "add", "thought": "x"}}, "VALIDATION_ERROR"),
        ({"type": "step", "data": {"type": "jump", "tool_name": "add"}}, "VALIDATION_ERROR"),
        ({"type": "reset", "data": None}, "VALIDATION_ERROR"),
        ({"type": "reset", "data": {"seed": "x"}}, "VALIDATION_ERROR"),
        ({"type": "reset", "data": {}, "x": 1}, "VALIDATION_ERROR"),
        ({"type": "state", "data": {}}, "VALIDATION_ERROR"),
        ({"type": "close", "data": 1}, "VALIDATION_ERROR"),
        ({"type": "mcp"}, "VALIDATION_ERROR"),
    ],
    ids=str,
)
async def test_a_bad_frame_is_said_so_and_the_session_lives(wire: Any, message: Any, code: str) -> None:
    error = await wire.error(message)
    assert error["code"] == code
    if code == "VALIDATION_ERROR":
        assert all({"type", "loc", "msg", "input"} <= set(problem) for problem in error["errors"])
    assert (await wire.ask("reset"))["type"] == "observation"


async def test_where_an_action_is_wrong_begins_at_its_field(wire: Any) -> None:
    error = await wire.error({"type": "step", "data": {}})
    assert [(p["type"], p["loc"]) for p in error["errors"]] == [("missing", ["tool_name"])]


async def test_what_the_environment_breaks_is_an_error_and_never_a_reward_of_0(serve: Any) -> None:
    async with serve("test/abacus", "test/mute") as served:
        async with served.wire() as wire:
            await wire.ask("reset")
            error = await wire.error({"type": "step", "data": {"tool_name": "broken"}})
            assert (error["code"], "a bug" in error["message"]) == ("EXECUTION_ERROR", True)
            assert (await wire.ask("state"))["data"]["end"] == "env_error"
            assert (await wire.ask("reset"))["type"] == "observation"
        async with served.wire("/openenv/test/mute/ws") as wire:
            error = await wire.error({"type": "reset", "data": {"seed": 1}})
            assert (error["code"], "no start" in error["message"]) == ("EXECUTION_ERROR", True)
            assert (await wire.ask("reset", {"seed": 0}))["type"] == "observation"


@pytest.mark.parametrize("message", ["[]", "3", b'{"type":"state"}'])
async def test_what_is_no_object_or_no_text_ends_the_connection(wire: Any, message: str | bytes) -> None:
    assert (await wire.error(message))["code"] == "SESSION_ERROR"
    await wire.closed()


async def test_a_close_frame_is_answered_by_the_close_alone(wire: Any) -> None:
    await wire.ask("reset")
    await wire.send({"type": "close"})
    await wire.closed()


async def test_frames_are_carried_out_in_their_order(wire: Any) -> None:
    step = {"type": "step", "data": {"tool_name": "add", "arguments": {"n": 1}}}
    for message in ({"type": "reset"}, {"type": "zz"}, step, {"type": "state"}):
        await wire.send(message)
    kinds = [(await wire.get())["type"] for _ in range(4)]
    assert kinds == ["observation", "error", "observation", "state"]


async def test_connections_are_apart(served: Any) -> None:
    async def play(turns: int) -> int:
        async with served.wire() as wire:
            await wire.ask("reset")
            for _ in range(turns):
                await wire.call("add", n=1)
            return int((await wire.ask("state"))["data"]["step_count"])

    assert await asyncio.gather(*map(play, (1, 2, 3))) == [1, 2, 3]


async def test_at_capacity_the_handshake_succeeds_and_a_frame_refuses(serve: Any) -> None:
    async with serve(sessions=2) as served:
        async with served.wire() as one, served.wire() as two:
            await one.ask("reset")
            await two.ask("state")
            async with served.wire() as refused:
                error = (await refused.get())["data"]
                assert error == {
                    "message": "Server at capacity: 2/2 sessions active. Cannot accept new connections.",
                    "code": "CAPACITY_REACHED",
                    "active_sessions": 2,
                    "max_sessions": 2,
                }
                await refused.send({"type": "reset"})  # what the close was held for
                await refused.closed()
            reply = await served.rpc("openenv/session/create")
            assert reply["error"]["code"] == -32000
            assert reply["error"]["data"] == {"active_sessions": 2, "max_sessions": 2}
            for path, body in (("/reset", {}), ("/step", {"action": {"tool_name": "add"}})):
                assert (await served.post(path, body))[0] == 200, "single calls take no place"
            assert (await one.ask("reset"))["type"] == "observation", "a reset keeps its place"
        await served.until_there_is_room()
        async with served.wire() as next_one:
            assert (await next_one.ask("reset"))["type"] == "observation"


async def test_a_refused_client_that_says_nothing_is_closed_after_a_while(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwise.envs.openenv.sockets.HOLD_SECONDS", 0.05)
    async with serve(sessions=1) as served, served.wire() as one:
        await one.ask("state")
        async with served.wire() as refused:
            await refused.get()
            await refused.closed()


async def test_an_environment_that_cannot_be_made_is_a_factory_error(serve: Any) -> None:
    async with (
        serve("test/abacus", "test/hopeless") as served,
        served.wire("/openenv/test/hopeless/ws") as wire,
    ):
        error = (await wire.get())["data"]
        assert (error["code"], error["factory_name"]) == ("FACTORY_ERROR", "test/hopeless")
        await wire.send({"type": "state"})
        await wire.closed()


async def test_pings_are_answered_while_a_step_takes_long(served: Any) -> None:
    async with served.wire(autoping=False) as wire:
        await wire.ask("reset")
        await wire.send({"type": "step", "data": {"tool_name": "wait"}})
        await served.abacus.waiting.wait()
        await wire.socket.ping(b"there?")
        pong = await wire.socket.receive()
        assert pong.type is WSMsgType.PONG
        served.abacus.go_on.set()
        assert (await wire.get())["data"]["observation"]["result"] == "waited"


async def test_who_leaves_in_the_middle_of_a_step_leaves_the_place(serve: Any) -> None:
    async with serve(sessions=1) as served:
        for _ in range(3):
            await served.until_there_is_room()
            async with served.wire() as wire:
                assert (await wire.ask("reset"))["type"] == "observation"
                await wire.send({"type": "step", "data": {"tool_name": "wait"}})
        async with connect(served.url) as envs, envs.open("test/abacus") as env:
            await env.reset()
            assert (await env.step(call("add", n=1))).view.text == "1"


HEAD = b"HTTP/1.1\r\nHost: localhost\r\n"
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SENT = [b"GET /turnwise/v1 ", b"GET /ws ", b"GET /mcp ", b"POST /reset ", b"POST /mcp "]


async def test_who_leaves_in_the_middle_of_a_request_is_no_failure_of_the_server(
    served: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for first in SENT:
        rest = UPGRADE if first.startswith(b"GET") else b"Content-Length: 9\r\n\r\n{"
        for reset in (True, False):
            _, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
            writer.write(first + HEAD + rest)
            if reset:
                writer.transport.abort()
            writer.close()
    counts = served.server._counters.requests
    while sum(count for (kind, _), count in counts.items() if " /" in kind) < 2 * len(SENT):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert not [code for _, code in counts if code not in ("ok", "http_400")]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_frames_up_to_16_mib(served: Any) -> None:
    async with served.wire() as wire:
        await wire.send('{"type": "zz", "data": "' + "x" * (15 << 20) + '"}')
        assert (await wire.get())["data"]["code"] == "UNKNOWN_TYPE"
    async with served.wire() as wire:
        with contextlib.suppress(ConnectionError):  # the server need not take in all of it
            await wire.send('{"type": "zz", "data": "' + "x" * (17 << 20) + '"}')
        await wire.closed(1009)


async def test_other_addresses_are_no_sockets(served: Any) -> None:
    for path in ("/ws/", "/nowhere", "/openenv/test/abacus/ws/"):
        with pytest.raises(WSServerHandshakeError) as refused:
            async with served.wire(path):
                pass
        assert refused.value.status == 403
