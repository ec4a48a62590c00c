"""Environments as gymnasium environments: its own checker, its words for how episodes end, nothing left."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import check_env

from tests.processes import children
from turnwise.envs.adapters.gym import ACTION_CHARS, TurnwiseEnv, Words, read_action
from turnwise.envs.adapters.worker import Worker
from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.session import EpisodeFailed
from turnwise.envs.types import CallAction, EndReason, FinishAction, InvalidAction, TextAction, ToolSpec

DESK = "tools/configdesk"
PAD = "test/pad"


@pytest.fixture
def pad() -> Iterator[TurnwiseEnv]:
    env = TurnwiseEnv(PAD, backend="process")
    yield env
    env.close()


def written(name: str, **arguments: object) -> str:
    return json.dumps({"name": name, "arguments": arguments})


async def demonstration(number: int) -> list[str]:
    """What the oracle calls in a task of the test split."""
    calls = []
    async with LocalEnvs(backend="process") as envs, envs.open(DESK, seed=number, split="test") as session:
        await session.reset()
        while session.end is None:
            action = await session.env.oracle()
            assert isinstance(action, CallAction)
            calls.append(action.calls[0].model_dump_json())
            await session.step(action)
    return calls


@pytest.mark.parametrize("name", [DESK, f"{DESK}?level=3"])
def test_gymnasiums_own_checker_finds_nothing(name: str) -> None:
    with gymnasium.make("turnwise/Env-v0", env=name) as env:
        check_env(env.unwrapped)


def test_a_desk_is_solved(tmp_path: Path) -> None:
    calls = asyncio.run(demonstration(5))
    with TurnwiseEnv(DESK, split="test", backend="process") as env:
        seen, info = env.reset(options={"task": 5})
        assert env.observation_space.contains(seen)
        assert info["task"] == "level-1/test/5"
        assert {described["name"] for described in info["tools"]} == {json.loads(c)["name"] for c in calls}
        steps = [env.step(call) for call in calls]
    assert [reward for _, reward, *_ in steps] == [0.0] * (len(calls) - 1) + [1.0]
    assert [(over, cut) for *_, over, cut, _ in steps] == [(False, False)] * (len(calls) - 1) + [
        (True, False)
    ]
    assert steps[-1][4]["end"] == "submitted"
    assert {"channel": "outcome", "level": 0, "value": 1.0} in steps[-1][4]["terms"]
    assert [name for step in steps for name in step[4]["milestones"]]


def test_a_seed_or_a_number_chooses_the_task() -> None:
    with TurnwiseEnv(DESK, backend="process") as one, TurnwiseEnv(DESK, backend="process") as other:
        first = [env.reset(seed=11) for env in (one, other)]
        second = [env.reset() for env in (one, other)]
        assert first[0] == first[1]
        assert second[0] == second[1]
        assert first[0][1]["task"] != second[0][1]["task"]
        chosen = one.reset(options={"task": 7, "split": "validation"})[1]
        assert (chosen["task"], chosen["split"]) == ("level-1/validation/7", "validation")


@pytest.mark.parametrize(
    ("calls", "end", "how"),
    [
        ([written("write", line="a"), written("hand_in")], "submitted", (1.0, True, False)),
        ([written("finish")], "submitted", (0.0, True, False)),
        ([written("flood")], "agent_fault", (0.0, True, False)),
        (["words"] * 6, "turn_limit", (0.0, False, True)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_how_an_episode_ends(
    calls: list[str], end: str, how: tuple[float, bool, bool], pad: TurnwiseEnv
) -> None:
    pad.reset(seed=1)
    *before, last = [pad.step(call) for call in calls]
    assert all(step[1:4] == (0.0, False, False) for step in before)
    assert (last[1:4], last[4]["end"]) == (how, end)
    with pytest.raises(ResetNeeded):
        pad.step("words")
    pad.reset()
    assert pad.step(written("write", line="a"))[4]["milestones"] == ["begun"]


@pytest.mark.parametrize(("name", "end"), [("lose", EndReason.INFRA_ERROR), ("missing", EndReason.ENV_ERROR)])
def test_what_is_not_the_agents_failure_is_an_exception(name: str, end: EndReason, pad: TurnwiseEnv) -> None:
    pad.reset(seed=1)
    with pytest.raises(EpisodeFailed) as caught:
        pad.step(written(name))
    assert caught.value.end is end
    with pytest.raises(ResetNeeded):
        pad.step("words")
    assert pad.reset()[0] == "write"


def test_an_environment_that_cannot_start_says_so_and_can_be_left() -> None:
    with TurnwiseEnv(f"{PAD}?fault=reset", backend="process") as env:
        for _ in range(2):
            with pytest.raises(EpisodeFailed):
                env.reset()
        with pytest.raises(ResetNeeded):
            env.step("words")


def test_a_served_environment_is_as_a_local_one() -> None:
    calls = asyncio.run(demonstration(5))
    served = Worker(EnvServer([DESK], port=0, backend="process", token="secret"), "server")
    try:
        remote = TurnwiseEnv(DESK, split="test", url=served.resource.url, token="secret")
        with remote, TurnwiseEnv(DESK, split="test", backend="process") as local:
            for options in ({"task": 5}, {"task": 6}):
                assert remote.reset(options=options) == local.reset(options=options)
            for call in calls:
                assert remote.step(call) == local.step(call)
    finally:
        served.close()


def test_closing_leaves_nothing() -> None:
    threads, processes = {*threading.enumerate()}, children(os.getpid())
    env = TurnwiseEnv(PAD)
    env.reset()
    assert {*threading.enumerate()} - threads
    env.close()
    env.close()
    assert not {*threading.enumerate()} - threads
    assert not children(os.getpid()) - processes
    with pytest.raises(ResetNeeded):
        env.step("words")
    with pytest.raises(ClosedEnvironmentError):
        env.reset()


def test_one_that_was_forgotten_leaves_nothing() -> None:
    threads, processes = {*threading.enumerate()}, children(os.getpid())
    env = TurnwiseEnv(PAD)
    env.reset()
    del env
    gc.collect()
    assert not {*threading.enumerate()} - threads
    assert not children(os.getpid()) - processes


IN_A_LOOP = """
import asyncio, gymnasium, turnwise.envs.adapters.gym

async def notebook():
    with gymnasium.make("turnwise/Env-v0", env="tools/configdesk", backend="process") as env:
        env.reset(seed=1)
        print(env.step('{"name": "check"}')[0])

asyncio.run(notebook())
"""


def test_it_works_where_an_event_loop_runs_as_in_a_notebook() -> None:
    command = [sys.executable, "-W", "error", "-c", IN_A_LOOP]
    result = subprocess.run(command, text=True, capture_output=True)
    assert (result.returncode, result.stdout) == (0, "fail\n"), result.stderr


def test_several_run_side_by_side() -> None:
    many = gymnasium.make_vec("turnwise/Env-v0", num_envs=2, env=PAD, backend="process")
    many.reset(seed=3)
    call = written("write", line="a")
    _, rewards, *_, infos = many.step((call, "words"))
    assert list(rewards) == [0.0, 0.0]
    assert list(infos["valid"]) == [True, False]
    many.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TurnwiseEnv("tools/confgdesk"), "did you mean 'tools/configdesk'"),
        (lambda: TurnwiseEnv(f"{DESK}?level=9"), "level"),
        (lambda: TurnwiseEnv(DESK, split="tset"), "did you mean 'test'"),
        (lambda: TurnwiseEnv(DESK, backend="dcoker"), "namespaces"),
        (lambda: TurnwiseEnv(DESK, url="localhost"), "http://host:8000"),
        (lambda: TurnwiseEnv(DESK, token="secret"), "give its url"),
        (lambda: TurnwiseEnv(DESK, url="http://127.0.0.1:1", backend="process"), "leave it out"),
    ],
)
def test_what_cannot_be_made_is_named(make, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"taks": 1}, "did you mean 'task'"), ({"task": -1}, "task = -1"), ({"split": "tset"}, "'test'")],
)
def test_wrong_options_are_named(options: dict[str, object], said: str, pad: TurnwiseEnv) -> None:
    with pytest.raises(UsageError, match=said):
        pad.reset(options=options)


@pytest.mark.parametrize("action", [3, None, "x" * (ACTION_CHARS + 1), "half a pair: \ud83d"])
def test_what_is_no_text_is_refused_and_the_episode_goes_on(action: object, pad: TurnwiseEnv) -> None:
    pad.reset(seed=1)
    with pytest.raises(UsageError, match="must be text"):
        pad.step(action)  # type: ignore[arg-type]
    assert pad.step("hi")[0] == "hello"


SHOW = ToolSpec(name="show", description="", parameters={})
END = ToolSpec(name="finish", description="", parameters={})


@pytest.mark.parametrize(
    ("text", "tools", "kind"),
    [
        ('{"name": "show"}', (SHOW,), CallAction),
        (' {"name": "no such tool", "arguments": {"a": [1]}}', (SHOW,), CallAction),
        ('{"name": "finish", "arguments": {"answer": "42"}}', (SHOW,), FinishAction),
        ('{"name": "finish"}', (END,), CallAction),
        ('{"name": "finish", "arguments": {"answer": 42}}', (SHOW,), InvalidAction),
        ("I would call show()", (SHOW,), TextAction),
        ("", (SHOW,), TextAction),
        ('{"name": "show"', (SHOW,), InvalidAction),
        ('{"tool": "show"}', (SHOW,), InvalidAction),
    ],
)
def test_what_a_text_means(text: str, tools: tuple[ToolSpec, ...], kind: type) -> None:
    assert isinstance(read_action(text, tools), kind)


def test_samples_are_calls_that_the_seed_decides(pad: TurnwiseEnv) -> None:
    assert read_action(pad.action_space.sample(), ()).kind in ("text", "invalid")
    pad.reset()
    drawn = []
    for _ in range(2):
        pad.action_space.seed(5)
        drawn.append([pad.action_space.sample() for _ in range(20)])
    assert drawn[0] == drawn[1]
    names = {json.loads(text)["name"] for text in drawn[0]}
    assert len(names) > 1
    assert names <= {spec.name for spec in pad.action_space.tools}


def test_observations_are_any_text() -> None:
    space = Words(10)
    assert all(space.contains(text) for text in ("", "naïve", "中文 😀", "a\nb"))
    assert not any(space.contains(value) for value in ("x" * 11, "\ud83d", b"bytes", 1))
