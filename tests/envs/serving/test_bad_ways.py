"""Whatever is lost or doubled on the way to a server, at random, an episode comes out the same."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.envs.conftest import Fate, relay
from tests.envs.serving.tally import serving
from turnwise import connect
from turnwise.envs.local import LocalEnvs
from turnwise.envs.serving.client import RemoteSession
from turnwise.envs.session import Session
from turnwise.envs.types import EndReason, call

Act = tuple[str, int]
acts = st.lists(st.tuples(st.sampled_from(["add", "add", "add", "keep", "back", "fork"]), st.integers(0, 9)))
fates = st.lists(st.sampled_from(["pass", "pass", "double", "lose", "mute"]), max_size=24)


async def play(env: Session | RemoteSession, script: list[Act]) -> list[object]:
    """Carry out a script; all that came of it."""
    told: list[object] = [await env.reset()]
    kept = False
    for act, n in script:
        match act:
            case "add":
                step = await env.step(call("add", n=n))
                assert step.record is not None
                told.append((step.view, step.record.model_copy(update={"seconds": 0.0})))
            case "keep":
                await env.snapshot("k")
                kept = True
            case "back" if kept:
                await env.restore("k")
            case "fork":
                (twin,) = await env.fork(1)
                told.append((await twin.step(call("add", n=n))).view)
                await twin.close()
    told.append(await env.conclude(EndReason.SUBMITTED))
    return [*told, env.turn, env.reached, env.end, env.score]


@settings(max_examples=30)
@given(acts, fates)
def test_whatever_is_lost_or_doubled_on_the_way_the_episode_is_the_same(
    script: list[Act], plan: list[Fate]
) -> None:
    async def here() -> list[object]:
        async with LocalEnvs() as envs, envs.open("test/tally") as env:
            return await play(env, script)

    async def there() -> list[object]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("turnwise.envs.serving.link.LONGEST_PAUSE", 0.05)  # many attempts may be lost
            return await on_a_bad_way()

    async def on_a_bad_way() -> list[object]:
        async with (
            serving() as server,
            relay(server) as way,
            connect(way.url) as envs,
            envs.open("test/tally") as env,
        ):
            way.fates.extend(plan)
            return await play(env, script)

    assert asyncio.run(there()) == asyncio.run(here())
