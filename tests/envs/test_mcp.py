"""An episode's tools over MCP, in one process: what the client gets, and what only the trainer does."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import ImageContent, TextContent

from turnwise.envs.adapters.mcp_server import RecordedTurn, episode_server
from turnwise.envs.env import Env
from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import register
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import milestone, reward, tool
from turnwise.envs.types import (
    AgentView,
    EndReason,
    EpisodeLimits,
    FinishAction,
    ImageBlock,
    Task,
    TextBlock,
)

PNG = b"\x89PNG not really"
PAD = "test/pad"

Open = Callable[..., AbstractAsyncContextManager[Client]]


@register
class Gate(Env):
    """A gate that is opened by one who waits for it. Nothing hands in."""

    name = "test/gate"
    limits = EpisodeLimits(turns=4)
    entered: asyncio.Event
    opened: asyncio.Event

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 3)

    async def reset(self, task: Task) -> AgentView:
        Gate.entered, Gate.opened = asyncio.Event(), asyncio.Event()
        self.trail: list[str] = []
        image = ImageBlock(media_type="image/png", data=PNG)
        return AgentView(content=(TextBlock(text=f"Task {task.id}"), image))

    @tool
    async def wait(self, who: str) -> str:
        """Wait until the gate opens."""
        self.trail.append(f"{who} in")
        Gate.entered.set()
        await Gate.opened.wait()
        self.trail.append(f"{who} out")
        return ", ".join(self.trail)

    @milestone
    def secret_milestone(self) -> bool:
        return bool(self.trail)

    @reward("secret_channel", level=2)
    def secret_channel(self) -> float:
        return 0.123456

    async def grade(self) -> float:
        return 0.654321


@pytest.fixture
def turns() -> list[RecordedTurn]:
    return []


@pytest.fixture
async def opened(turns: list[RecordedTurn]) -> AsyncIterator[Open]:
    """Opens a session of an environment with the official client."""
    async with LocalEnvs(backend="process", capacity=1) as envs:

        @asynccontextmanager
        async def connected(env: str, **where: Any) -> AsyncIterator[Client]:
            server = episode_server(envs, env, record=turns.append, **where)
            async with Client(server, mode="legacy") as client:
                yield client

        yield connected


def words(result) -> list[str]:
    return [block.text for block in result.content if isinstance(block, TextContent)]


async def test_the_client_is_told_the_task_and_the_tools(opened: Open) -> None:
    async with opened("test/gate", seed=2) as client:
        assert client.instructions is not None
        assert (
            client.instructions
            == "A gate that is opened by one who waits for it. Nothing hands in.\n\nTask test/2"
        )
        (prompt,) = (await client.list_prompts()).prompts
        messages = (await client.get_prompt(prompt.name)).messages
        assert [message.content for message in messages] == [
            TextContent(text="Task test/2"),
            ImageContent(data=base64.b64encode(PNG).decode(), mime_type="image/png"),
        ]
        wait, finish = (await client.list_tools()).tools
        assert (wait.name, wait.description) == ("wait", "Wait until the gate opens.")
        assert wait.input_schema == Gate.interface.specs[0].parameters
        assert finish.name == "finish"


async def test_scores_and_milestones_go_to_the_trainer_alone(opened: Open, turns: list[RecordedTurn]) -> None:
    async with opened("test/gate") as client:
        Gate.opened.set()
        received = [
            await client.list_tools(),
            await client.get_prompt("task"),
            await client.call_tool("wait", {"who": "me"}),
            await client.call_tool("finish", {"answer": "done"}),
            await client.call_tool("wait", {"who": "me"}),
        ]
    told = "".join(message.model_dump_json() for message in received) + client_text(received)
    assert not [word for word in ("secret", "0.123", "0.654", "milestone", "score", "reward") if word in told]
    assert [turn.record.milestones for turn in turns] == [("secret_milestone",), ()]
    assert (turns[-1].record.end, turns[-1].record.score) == (EndReason.SUBMITTED, 0.654321)
    assert turns[-1].action == FinishAction(answer="done")
    assert len({turn.episode for turn in turns}) == 1
    assert turns[0].task.id == "test/0"


def client_text(received: list[Any]) -> str:
    return "".join(word for message in received if hasattr(message, "content") for word in words(message))


async def test_the_end_is_told_and_nothing_comes_after_it(opened: Open, turns: list[RecordedTurn]) -> None:
    async with opened(PAD) as client:
        assert "finish" not in {tool.name for tool in (await client.list_tools()).tools}
        assert words(await client.call_tool("write", {"line": "a"})) == ["ok"]
        result = await client.call_tool("hand_in")
        assert words(result) == ["thanks", "The episode has ended (submitted)."]
        assert not result.is_error
        result = await client.call_tool("write", {"line": "b"})
        assert "has ended" in words(result)[0]
        assert result.is_error
    assert len(turns) == 2


async def test_reaching_the_turn_limit_is_told(opened: Open, turns: list[RecordedTurn]) -> None:
    async with opened(PAD) as client:
        results = [await client.call_tool("write", {"line": "a"}) for _ in range(6)]
    assert words(results[-1])[-1] == "The episode has ended (turn_limit)."
    assert [turn.record.turn for turn in turns] == list(range(6))


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [("write", {}, "line: field required"), ("erase", {}, "unknown tool erase"), ("refuse", {}, "not today")],
)
async def test_a_mistake_is_told_and_costs_a_turn(
    name: str, arguments: dict[str, object], said: str, opened: Open, turns: list[RecordedTurn]
) -> None:
    async with opened(PAD) as client:
        result = await client.call_tool(name, arguments)
        assert result.is_error
        assert said in words(result)[0]
        assert words(await client.call_tool("write", {"line": "a"})) == ["ok"]
    assert [turn.record.valid for turn in turns] == [False, True]


async def test_what_went_wrong_inside_is_the_trainers_to_know(
    opened: Open, turns: list[RecordedTurn]
) -> None:
    async with opened(PAD) as client:
        result = await client.call_tool("missing")
    assert result.is_error
    assert words(result) == ["The episode has ended (env_error)."]
    assert "forgotten" in turns[0].record.error
    assert turns[0].record.score is None


async def test_calls_at_the_same_time_are_turns_one_after_another(
    opened: Open, turns: list[RecordedTurn]
) -> None:
    async with opened("test/gate") as client, asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(client.call_tool("wait", {"who": who})) for who in ("a", "b")]
        await Gate.entered.wait()
        Gate.opened.set()
        first, second = sorted([words(await call)[0] for call in calls], key=len)
    assert second in ("a in, a out, b in, b out", "b in, b out, a in, a out")
    assert second.startswith(first)
    assert [turn.record.turn for turn in turns] == [0, 1]


async def test_a_turn_that_nobody_waits_for_any_more_is_carried_out(
    opened: Open, turns: list[RecordedTurn]
) -> None:
    async with opened("test/gate") as client:
        call = asyncio.create_task(client.call_tool("wait", {"who": "a"}))
        await Gate.entered.wait()
        call.cancel()
        await asyncio.wait([call])
        Gate.opened.set()
        assert words(await client.call_tool("wait", {"who": "b"})) == ["a in, a out, b in, b out"]
    assert [turn.record.valid for turn in turns] == [True, True]


async def test_the_sandbox_goes_with_the_session(opened: Open) -> None:
    for _ in range(3):  # there is one place
        async with opened(PAD) as client, asyncio.timeout(300):
            assert words(await client.call_tool("write", {"line": "a"})) == ["ok"]


async def test_an_episode_that_cannot_start_refuses_the_session(opened: Open) -> None:
    refusal = pytest.RaisesExc(MCPError, match="the episode could not start: env_error")
    for _ in range(2):
        with pytest.RaisesGroup(refusal, flatten_subgroups=True):
            async with opened(f"{PAD}?fault=reset"):
                pass


async def test_what_does_not_exist_is_named(opened: Open) -> None:
    for where in ({"env": "test/pda"}, {"env": f"{PAD}?fualt=reset"}, {"env": PAD, "split": "tset"}):
        with pytest.raises(UsageError, match="did you mean"):
            async with opened(**where):
                pass
    async with opened(PAD) as client:
        with pytest.raises(MCPError, match="only 'task'"):
            await client.get_prompt("tsak")
