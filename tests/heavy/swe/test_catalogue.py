"""The whole catalogue of cheats against the real grader: nothing but the residue scores."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

from tests.envs.swe.grading.conftest import Grader, grader, machines  # noqa: F401  # the fixtures
from turnwise.envs.cheat import Cheat
from turnwise.envs.swe.cheats.catalogue import Desk, catalogue
from turnwise.envs.swe.grading import Verdict

AT_ONCE = 3


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def verdicts(grader: Grader) -> dict[str, Verdict]:  # noqa: F811  # the fixture
    """Of every cheat."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(cheat: Cheat[Desk]) -> Verdict:
        async with turn:
            return await grader.cheat(cheat)

    found = await asyncio.gather(*map(one, catalogue()))
    return {cheat.name: verdict for cheat, verdict in zip(catalogue(), found, strict=True)}


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("cheat", catalogue(), ids=lambda cheat: cheat.name)
async def test_only_the_residue_scores(verdicts: dict[str, Verdict], cheat: Cheat[Desk]) -> None:
    assert verdicts[cheat.name].score == float(cheat.residue), verdicts[cheat.name]
