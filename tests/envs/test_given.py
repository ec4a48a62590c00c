"""What is no action, name, number or task is refused here as on a server, with the same words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from turnwise import connect, evaluate
from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.serving.client import RemoteEnvs
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.types import EndReason, FinishAction, call

WRITE = call("write", line="x")


@pytest.fixture(params=["here", "on a server"])
async def anywhere(request: pytest.FixtureRequest) -> AsyncIterator[LocalEnvs | RemoteEnvs]:
    if request.param == "here":
        async with LocalEnvs(backend="process", capacity=2) as envs:
            yield envs
    else:
        async with (
            EnvServer(["test/pad"], port=0, backend="process") as server,
            connect(server.url) as envs,
        ):
            yield envs


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"env": None}, "environment None: must be a name such as 'tools/configdesk'"),
        ({"env": 7}, "environment 7: must be a name"),
        ({"env": b"test/pad"}, "environment b'test/pad': must be a name"),
        ({"seed": "3"}, "seed '3': must be a whole number"),
        ({"seed": None}, "seed None: must be a whole number"),
        ({"seed": 1.0}, "seed 1.0: must be a whole number"),
        ({"seed": True}, "seed True: must be a whole number"),
        ({"split": None}, "unknown split None (allowed: test, train, validation)"),
        ({"split": "trian"}, "unknown split 'trian'; did you mean 'train'?"),
        ({"split": ["train"]}, "unknown split ['train'] (allowed"),
        ({"task": 3}, "task 3: must be a Task; or leave it out and give seed and split"),
    ],
)
async def test_what_is_no_name_seed_split_or_task_opens_nothing(
    anywhere: LocalEnvs | RemoteEnvs, words: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        async with anywhere.open(**{"env": "test/pad", **words}):
            pass
    assert str(refused.value).startswith(said)


async def test_what_is_no_action_count_or_name_is_refused_and_the_session_goes_on(
    anywhere: LocalEnvs | RemoteEnvs,
) -> None:
    async with anywhere.open("test/pad", seed=-1) as env:
        await env.reset()
        for asked, said in (
            (lambda given: env.step(given), "action {}: must be call(TOOL, ARGUMENT=…), or a CallAction"),
            (lambda given: env.fork(given), "count {}: must be a whole number, at least 0"),
            (lambda given: env.snapshot(given), "snapshot {}: must be a name of 1 to 64 letters"),
            (lambda given: env.restore(given), "snapshot {}: must be a name of 1 to 64 letters"),
            (lambda given: env.conclude(given), "unknown end {}"),
        ):
            for given in ("hello !", None, {"kind": "finish"}, -1, [call("show")], b"\xff"):
                with pytest.raises(UsageError) as refused:
                    await asked(given)  # type: ignore[no-untyped-call]
                assert str(refused.value).startswith(said.format(repr(given)[:77]))
                assert (env.turn, env.end) == (0, None)
        assert (await env.step(WRITE)).view.text == "ok"
        assert await env.fork(0) == []
        await env.conclude("submitted")  # type: ignore[arg-type]  # as it is written in JSON
        assert (env.end, env.score) == (EndReason.SUBMITTED, 1.0)


async def test_a_long_value_is_not_repeated_whole(anywhere: LocalEnvs | RemoteEnvs) -> None:
    async with anywhere.open("test/pad") as env:
        await env.reset()
        with pytest.raises(UsageError) as refused:
            await env.step("x\n" * 10_000)  # type: ignore[arg-type]
    assert len(str(refused.value)) < 250
    assert "\n" not in str(refused.value)


async def test_numbers_of_other_libraries_are_numbers(anywhere: LocalEnvs | RemoteEnvs) -> None:
    import numpy as np

    async with anywhere.open("test/pad", seed=np.int64(2)) as env:  # type: ignore[arg-type]
        await env.reset()
        assert (await env.step(FinishAction())).end is EndReason.SUBMITTED


async def test_who_attaches_names_the_session() -> None:
    async with (
        EnvServer(["test/pad"], port=0, backend="process") as server,
        connect(server.url) as envs,
    ):
        for wrong in ("no such", 5, ""):
            with pytest.raises(UsageError, match=f"session {wrong!r}: must be a name"):
                await envs.attach(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("capacity", [0, -1, "8", None])
def test_a_capacity_that_is_none_is_refused(capacity: Any) -> None:
    with pytest.raises(UsageError, match=f"capacity {capacity!r}: must be a whole number, at least 1"):
        LocalEnvs(capacity=capacity)


@pytest.mark.parametrize(
    "words",
    [{"tasks": "5"}, {"k": 1.5}, {"seed": "1"}, {"concurrency": 0}, {"concurrency": None}, {"split": None}],
)
async def test_an_evaluation_is_of_whole_numbers(words: dict[str, Any]) -> None:
    ((field, value),) = words.items()
    with pytest.raises(UsageError, match=f"{field} {value!r}"):
        await evaluate("test/pad", "scripted:noop", **{"tasks": 1, **words})
