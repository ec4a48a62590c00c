"""OpenEnv's HTTP routes, who may call what, and where several environments are."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from aiohttp import WSServerHandshakeError

from turnwise import connect
from turnwise.envs.serving.tokens import Tokens
from turnwise.envs.serving.wire import Role

TOKEN = "the-trainers-own-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


async def test_documents(served: Any) -> None:
    assert await served.get("/health") == (200, {"status": "healthy"})
    status, metadata = await served.get("/metadata")
    assert (status, metadata) == (
        200,
        {
            "name": "test/abacus",
            "description": "Add up to a number. Say something to be answered.",
            "readme_content": None,
            "version": "1",
            "author": None,
            "documentation_url": None,
        },
    )
    status, schema = await served.get("/schema")
    assert (status, set(schema)) == (200, {"action", "observation", "reset_observation", "state"})
    action = schema["action"]
    assert (action["title"], action["type"], action["required"]) == (
        "CallToolAction",
        "object",
        ["tool_name"],
    )
    assert action["additionalProperties"] is False
    status, document = await served.get("/openapi.json")
    assert (status, document["info"]["version"]) == (200, "1.0.0")
    assert {"/reset", "/step", "/state", "/mcp", "/{env_name}/tasks"} <= set(document["paths"])


async def test_what_resets_and_steps_over_http_keeps_nothing(served: Any) -> None:
    for body in (None, "", {}, {"seed": 3, "episode_id": "e", "zzz": 1}, {"split": "test"}):
        status, answer = await served.post("/reset", body)
        assert (status, set(answer)) == (200, {"observation", "reward", "done", "metadata"})
        assert (answer["reward"], answer["done"]) == (None, False)
    assert answer["metadata"]["task"]["id"].startswith("test/")
    body = {
        "action": {"tool_name": "add", "arguments": {"n": 2}},
        "timeout_s": 5,
        "request_id": "r",
        "zzz": 1,
    }
    for _ in range(2):
        status, answer = await served.post("/step", body)
        assert (status, answer["observation"]["result"], answer["metadata"]["turn"]) == (200, "2", 0)
    status, answer = await served.post("/step", {"action": {"type": "list_tools"}})
    assert (status, answer["metadata"], "tools" in answer["observation"]) == (200, None, True)
    assert await served.get("/state") == (200, {"episode_id": None, "step_count": 0, "end": None})


@pytest.mark.parametrize(
    ("path", "body", "loc"),
    [
        ("/reset", "{", ["body"]),
        ("/reset", '{"seed": NaN}', ["body"]),
        ("/reset", "[]", ["body"]),
        ("/reset", {"seed": -1}, ["body", "seed"]),
        ("/reset", {"seed": "x"}, ["body", "seed"]),
        ("/reset", {"episode_id": "x" * 256}, ["body", "episode_id"]),
        ("/step", {}, ["body", "action"]),
        ("/step", {"action": 3}, ["body", "action"]),
        ("/step", {"action": {"tool_name": "add"}, "timeout_s": 0}, ["body", "timeout_s"]),
        ("/step", {"action": {"tool_name": "add"}, "request_id": "x" * 256}, ["body", "request_id"]),
        ("/step", {"action": {}}, ["tool_name"]),
        ("/test/abacus/tasks", {}, ["body", "split"]),
        ("/test/abacus/tasks", {"split": "train", "x": 1}, ["body", "x"]),
        ("/test/abacus/task", {"split": "train", "index": "x"}, ["body", "index"]),
    ],
    ids=str,
)
async def test_a_body_that_does_not_fit_is_422(served: Any, path: str, body: Any, loc: list[str]) -> None:
    status, answer = await served.post(path, body)
    assert status == 422
    problem = answer["detail"][0]
    assert {"type", "loc", "msg", "input"} <= set(problem)
    assert problem["loc"] == loc


async def test_the_tasks(served: Any) -> None:
    assert await served.get("/list_environments") == (200, ["test/abacus"])
    for name in ("test/abacus", "TEST/Abacus", "test%2Fabacus"):
        status, splits = await served.get(f"/{name}/splits")
        assert (status, splits[0], len(splits)) == (200, {"name": "train", "type": "train"}, 3)
    status, answer = await served.post("/test/abacus/tasks", {"split": "test"})
    assert (status, answer["env_name"], len(answer["tasks"])) == (200, "test/abacus", 5)
    assert served.gold not in str(answer)
    assert await served.post("/test/abacus/num_tasks", {"split": "test"}) == (200, {"num_tasks": 5})
    one = (await served.post("/test/abacus/task", {"split": "test", "index": 1}))[1]["task"]
    assert one == answer["tasks"][1]
    assert one["ref"]["id"] == "test/1"
    ranges: tuple[dict[str, int], ...] = ({"start": 1, "stop": 3}, {"start": 3}, {"stop": 1}, {})
    lengths = [
        len((await served.post("/test/abacus/task_range", {"split": "test", **span}))[1]["tasks"])
        for span in ranges
    ]
    assert lengths == [2, 2, 1, 5]


async def test_what_is_not_there(served: Any) -> None:
    for index in (5, -1, 10**9):
        asked = {"split": "test", "index": index}
        assert await served.post("/test/abacus/task", asked) == (400, {"detail": "Invalid task index"})
    status, answer = await served.post("/test/abacus/tasks", {"split": "x"})
    assert (status, "train" in answer["detail"]) == (400, True)
    assert (await served.get("/other/splits"))[0] == 404
    assert await served.get("/no-such-route") == (404, {"detail": "Not Found"})
    assert await served.get("/ws") == (404, {"detail": "Not Found"})
    assert (await served.get("/reset"))[0] == 405


async def test_an_environment_that_fails_is_500(serve: Any) -> None:
    async with serve("test/mute") as served:
        assert await served.post("/reset", {"seed": 1}) == (500, "Internal Server Error")
    async with serve("test/abacus") as served:
        broken = {"action": {"tool_name": "broken"}}
        assert await served.post("/step", broken) == (500, "Internal Server Error")


async def test_several_environments_each_under_its_name_and_the_first_at_the_root(serve: Any) -> None:
    async with serve("test/mute", "test/abacus", "test/pad?fault=grade") as served:
        for path, name in (
            ("", "test/mute"),
            ("/openenv/test/mute", "test/mute"),
            ("/openenv/test/abacus", "test/abacus"),
            ("/openenv/test/pad;fault=grade", "test/pad;fault=grade"),
        ):
            assert (await served.get(f"{path}/metadata"))[1]["name"] == name
            assert (await served.get(f"{path}/list_environments"))[1] == [name]
            assert (await served.get(f"{path}/{name}/splits"))[0] == 200
            assert (await served.get(f"{path}/health"))[0] == 200
            async with served.wire(f"{path}/ws") as wire:
                assert (await wire.ask("state"))["data"]["step_count"] == 0
        assert (await served.get("/test/abacus/splits"))[0] == 404, "the root is the first's alone"


async def test_with_a_token_the_trainer_alone_resets(serve: Any) -> None:
    basic = base64.b64encode(f"any:{TOKEN}".encode()).decode()
    async with serve(token=TOKEN) as served:
        assert (await served.get("/health"))[0] == 200
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic x"}):
            for path in ("/metadata", "/schema", "/state", "/list_environments"):
                status, answer = await served.get(path, **headers)
                assert (status, list(answer)) == (401, ["detail"])
            assert (await served.post("/mcp", {}, **headers))[0] == 401
            with pytest.raises(WSServerHandshakeError) as refused:
                async with served.wire(**headers):
                    pass
            assert refused.value.status == 401
        for headers in (BEARER, {"Authorization": f"Basic {basic}"}):
            assert (await served.get("/metadata", **headers))[0] == 200
            async with served.wire(**headers) as wire:
                assert (await wire.ask("reset"))["type"] == "observation"


@pytest.mark.parametrize("role", ["grader", "admin"])
async def test_who_neither_trains_nor_acts_has_no_part_in_it(serve: Any, role: Role) -> None:
    async with serve(token=Tokens.of({"trainer": TOKEN, role: "another-token"})) as served:
        other = {"Authorization": "Bearer another-token"}
        assert (await served.get("/health", **other))[0] == 200
        assert (await served.get("/metadata", **other))[0] == 403
        for path in ("/reset", "/step", "/mcp"):
            assert (await served.post(path, {}, **other))[0] == 403
        for path in ("/ws", "/mcp"):
            with pytest.raises(WSServerHandshakeError) as refused:
                async with served.wire(path, **other):
                    pass
            assert refused.value.status == 403


async def test_an_agent_steps_its_session_and_sees_no_reward(serve: Any) -> None:
    async with (
        serve("test/mute", "test/abacus", token=TOKEN) as served,
        served.wire("/openenv/test/abacus/ws", **BEARER) as trainer,
    ):
        first = (await trainer.ask("reset", {"seed": 3}))["data"]
        assert served.gold not in str(first)
        agents = {"Authorization": f"Bearer {first['metadata']['agent_token']}"}
        async with served.wire("/openenv/test/abacus/ws", **agents) as agent:
            turn = await agent.call("add", n=int(first["observation"]["text"].split()[-1]))
            assert (turn["reward"], "metadata" in turn) == (None, False)
            for message in ({"type": "reset"}, {"type": "reset", "data": {"seed": 1}}):
                error = await agent.error(message)
                assert error["code"] == "EXECUTION_ERROR"
                assert "may not reset" in error["message"]
            mistake = (await agent.call("zz"))["observation"]["error"]
            assert mistake == {"error_type": "tool_not_found", "message": "unknown tool zz"}
            call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "refuse"}}
            assert (await agent.ask("mcp", call))["data"]["error"]["message"] == "not today"
            create = {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/close"}
            create["params"] = {"session_id": "x"}
            assert "error" in (await agent.ask("mcp", create))["data"]
        for path in ("/reset", "/step", "/openenv/test/abacus/test/abacus/tasks"):
            assert (await served.post(path, {}, **agents))[0] == 403
        assert (await served.get("/schema", **agents))[0] == 200
        assert (await served.rpc("openenv/session/create", **agents))["error"]["code"] == -32000
        async with served.wire("/ws", **agents) as other:
            assert (await other.get())["data"]["code"] == "SESSION_ERROR"
        last = await trainer.call("finish")
        assert (last["reward"], last["metadata"]["turn"]) == (1.0, 3), "the agent let go, no more"


async def test_without_a_token_web_pages_are_refused(served: Any) -> None:
    evil = {"Origin": "http://evil.example"}
    assert (await served.post("/reset", {}, **evil))[0] == 403
    assert (await served.post("/mcp", {}, **evil))[0] == 403
    with pytest.raises(WSServerHandshakeError):
        async with served.wire(**evil):
            pass


async def test_sessions_of_both_protocols_share_the_places(serve: Any) -> None:
    async with serve(sessions=1) as served:
        async with connect(served.url) as envs, envs.open("test/abacus"), served.wire() as refused:
            assert (await refused.get())["data"]["code"] == "CAPACITY_REACHED"
            await refused.send({"type": "state"})
        async with served.wire() as wire:
            assert (await wire.ask("reset"))["type"] == "observation"
