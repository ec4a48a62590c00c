"""The desk's small levels at other horizons: as long as they say, and every milestone means something."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.envs.session import Session
from turnwise.envs.tools.configdesk import ConfigDesk
from turnwise.envs.types import EndReason, call


@pytest.fixture
async def envs() -> AsyncIterator[LocalEnvs]:
    """On the best backend that this machine has."""
    async with LocalEnvs(capacity=8) as envs:
        yield envs


def desk(session: Session) -> ConfigDesk:
    assert isinstance(session.env, ConfigDesk)
    return session.env


async def do(session: Session, name: str, **arguments: str) -> str:
    """One call; what the agent is shown."""
    return (await session.step(call(name, **arguments))).view.text


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("horizon", [4, 8, 16])
async def test_the_oracle_takes_a_horizons_turns_exactly(envs: LocalEnvs, level: int, horizon: int) -> None:
    spec = f"tools/configdesk?level={level}&horizon={horizon}"
    for seed in range(5):
        async with envs.open(spec, seed=seed, split="test") as session:
            await session.reset()
            await session.step(call("check"))
            assert session.reached == {}, "nothing is reached before anything was done"
            while session.end is None:
                await session.step(await desk(session).oracle())
            assert (session.end, session.score) == (EndReason.SUBMITTED, 1.0)
            assert session.turn == 1 + horizon
            assert session.limits.turns == horizon * 3 // 2
            assert list(session.reached) == ["source_read", "target_opened", "value_set", "check_passed"]
            moments = len(set(session.reached.values()))
            assert moments == (3 if horizon == 4 else 4), "there are no more before a task of 4 turns is over"


async def test_a_given_value_is_progress_in_the_file_that_it_belongs_in(envs: LocalEnvs) -> None:
    async with envs.open("tools/configdesk?horizon=4", seed=1) as session:
        await session.reset()
        (edit,) = desk(session).problem.edits
        wrong = next(name for name in desk(session).problem.tree if name != edit.file)
        await do(session, "open", file=wrong)
        assert await do(session, "set", key=edit.key, value=edit.value) == "error: no key"
        assert session.reached == {}
        await do(session, "open", file=edit.file)
        assert list(session.reached) == ["source_read", "target_opened"]
        await do(session, "set", key=edit.key, value="off" if edit.value != "off" else "1")
        assert "value_set" not in session.reached
        await do(session, "set", key=edit.key, value=edit.value)
        assert "value_set" in session.reached


async def test_copies_and_edits_are_reached_together(envs: LocalEnvs) -> None:
    async with envs.open("tools/configdesk?horizon=16", seed=1) as session:
        await session.reset()
        problem = desk(session).problem
        (edit,) = problem.edits
        for copy in problem.copies:
            await do(session, "open", file=copy.reads[0].file)
            await do(session, "get", key=copy.reads[0].key)
            await do(session, "open", file=copy.target.file)
            await do(session, "set", key=copy.target.key, value=copy.target.value)
        assert session.reached == {}
        assert await do(session, "check") == "fail"
        await do(session, "open", file=edit.file)
        assert list(session.reached) == ["source_read", "target_opened"]
        await do(session, "set", key=edit.key, value=edit.value)
        assert list(session.reached) == ["source_read", "target_opened", "value_set"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("level=3&horizon=4", "horizon: 4 does not fit level 3.*choose level 1 or 2"),
        ("level=5&horizon=8", "horizon: 8 does not fit level 5"),
        ("horizon=5", "horizon: 5 is none of 4, 8, 16"),
        ("horizon=long", 'horizon = "long": .*integer'),
        ("level=9&horizon=4", 'level = "9": .*less than or equal to 5'),
    ],
)
def test_a_horizon_that_does_not_fit_is_refused(options: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"^options of tools/configdesk: {words}"):
        EnvSpec.parse(f"tools/configdesk?{options}").make()
