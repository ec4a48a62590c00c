"""What OpenEnv's own clients do to a server, each case by its name; run with the Python that has them.

python -P plays.py CASE URL
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager

from openenv import GenericEnvClient

ADD_ONE = {"type": "call_tool", "tool_name": "add", "arguments": {"n": 1}}
WAIT = {"tool_name": "wait"}
LONG = 60
"""Seconds for what is to succeed, on a machine that is busy with other things too."""


def client(url, **options):
    """OpenEnv's."""
    return GenericEnvClient(base_url=url, connect_timeout_s=LONG, **options)


@contextmanager
def raises(kind, words):
    """As in pytest, which is not here."""
    try:
        yield
    except kind as error:
        if words not in str(error):
            raise AssertionError(f"{words!r} is not in {error!r}") from error
    else:
        raise AssertionError(f"no {kind.__name__} with {words!r}")


async def validate(url):
    """The six criteria of ``openenv validate``."""
    command = [sys.executable, "-m", "openenv.cli", "validate", "--url", url, "--json"]
    command += ["--timeout", str(LONG)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert done.returncode == 0, report
    assert report["passed"], report
    assert report["summary"]["passed_count"] == 6, report


async def episode(url):
    """Reset, step, state, the end, and another episode, async."""
    async with client(url) as env:
        assert (await env.state())["episode_id"] is None
        first = await env.reset(seed=3, episode_id="mine", unknown={"a": 1})
        assert (first.reward, first.done) == (None, False), first
        goal = int(first.observation["text"].split()[-1])
        for turn in range(goal):
            result = await env.step(ADD_ONE)
            assert result.observation["result"] == str(turn + 1), result
        assert await env.state() == {"episode_id": "mine", "step_count": goal, "end": None}
        last = await env.step({"tool_name": "finish"})
        assert (last.reward, last.done) == (1.0, True), last
        assert (await env.reset()).done is False


def sync(url):
    """The same without async."""
    with client(url).sync() as env:
        env.reset(seed=1)
        assert env.step(ADD_ONE).observation["result"] == "1"
        assert env.state()["step_count"] == 1


async def mistakes(url):
    """An action that is none is an error; a wrong move is not; the session lives on."""
    async with client(url) as env:
        await env.reset()
        for action in ({}, {**ADD_ONE, "zz": 1}):
            with raises(RuntimeError, "(code: VALIDATION_ERROR)"):
                await env.step(action)
        wrong = await env.step({"tool_name": "zz"})
        assert wrong.observation["error"]["error_type"] == "tool_not_found", wrong
        with raises(RuntimeError, "(code: EXECUTION_ERROR)"):
            await env.step({"tool_name": "broken"})
        assert (await env.reset()).done is False


async def many(url):
    """Sessions beside each other know nothing of each other."""

    async def play(turns):
        async with client(url) as env:
            await env.reset()
            for _ in range(turns):
                await env.step(ADD_ONE)
            return (await env.state())["step_count"]

    assert await asyncio.gather(*map(play, (1, 2, 3, 4))) == [1, 2, 3, 4]


async def keepalive(url):
    """Pings are answered while a step takes longer than their time-out."""
    async with client(url, websocket_ping_interval_s=0.3, websocket_ping_timeout_s=5) as env:
        await env.reset()
        assert (await env.step(WAIT)).observation["result"] == "waited"


async def timeout(url):
    """A client that gave up waiting goes on in a fresh session, which knows that it has no episode."""
    async with client(url) as env:
        await env.reset(episode_id="old")
        env._message_timeout = 0.3
        with raises(TimeoutError, ""):
            await env.step(WAIT)
        env._message_timeout = LONG
        assert (await env.state())["episode_id"] is None
        with raises(RuntimeError, "reset it"):
            await env.step(ADD_ONE)


async def crowd(url):
    """At capacity (4) a client is told so cleanly, ten times of ten, and the next one gets in."""
    inside = [client(url) for _ in range(4)]
    for env in inside:
        await env.connect()
        await env.state()
    for _ in range(10):
        late = client(url)
        with raises(RuntimeError, "(code: CAPACITY_REACHED)"):
            await late.connect()
            await late.reset()
        await late.close()
    for env in inside:
        await env.close()
    async with client(url) as env:
        await env.reset()


async def mcp(url):
    """OpenEnv's MCP client: tools, calls, the episode that both share, and the session's end."""
    from openenv.core.mcp_client import MCPToolClient

    for _ in range(6):  # more than there are places
        async with MCPToolClient(base_url=url, connect_timeout_s=LONG) as env:
            tools = await env.list_tools()
            assert [tool.name for tool in tools][:2] == ["add", "wait"], tools
            await env.reset(seed=0)
            assert await env.call_tool("add", n=2) == "2"
            assert (await env.state()).step_count == 1
            with raises(RuntimeError, "unknown tool zz"):
                await env.call_tool("zz")


async def header(url):
    """The trainer's token in a header, or in the address."""
    async with client(url, headers={"Authorization": "Bearer secret-of-ours"}) as env:
        await env.reset()
    async with client(url.replace("://", "://any:secret-of-ours@")) as env:
        await env.reset()
    await validate(url.replace("://", "://any:secret-of-ours@"))
    with raises(ConnectionError, "401"):
        await client(url).connect()


class Model:
    """Stands for verifiers' agent: what it sees, and replies from a script."""

    def __init__(self, replies):
        self.replies, self.seen, self.reward = replies, [], None
        self.trace, self.terminated, self.last_reply = self, False, ""

    @asynccontextmanager
    async def interaction(self, task):
        """The one that there is."""
        yield self

    async def turn(self, message):
        """Read a message and reply."""
        self.seen.append(json.loads(message))
        goal = self.seen[0]["observation"]["text"].split()[-1]
        self.last_reply = self.replies[len(self.seen) - 1].replace("GOAL", goal)
        return self

    def record_reward(self, name, value):
        """What the episode was worth."""
        assert name == "openenv_reward"
        self.reward = value


async def verifiers(url):
    """verifiers' OpenEnv environment plays an episode, with what a model gets wrong in it."""
    from types import SimpleNamespace

    from verifiers.v1.tasksets.openenv.taskset import OpenEnvConfig, OpenEnvEnv, OpenEnvTaskset

    config = OpenEnvConfig(base_url=url, resets=[{"seed": 3}])
    (task,) = OpenEnvTaskset(config).load()
    model = Model(
        [
            "I think I should add.",
            '{"tool_name": "add", "arguments": {"n": "many"}}',
            '```json\n{"type": "call_tool", "tool_name": "add", "arguments": {"n": GOAL}}\n```',
            '{"tool_name": "finish"}',
        ]
    )
    env = OpenEnvEnv.__new__(OpenEnvEnv)
    await env.run(task, SimpleNamespace(player=model))
    assert model.reward == 1.0
    tools = [tool["name"] for tool in model.seen[0]["action_schema"]["available_tools"]]
    assert tools == ["add", "wait", "broken", "finish"], tools
    shown = json.dumps(model.seen)
    assert "agent_token" not in shown
    assert "terms" not in shown
    assert [turn["observation"].get("error") is not None for turn in model.seen] == [False, True, True, False]


if __name__ == "__main__":
    case = globals()[sys.argv[1]]
    outcome = case(sys.argv[2])
    if asyncio.iscoroutine(outcome):
        asyncio.run(outcome)
