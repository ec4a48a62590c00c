"""A cheat of each kind scores nothing; ``tests/heavy/swe`` tries them all, ``.ci/run swe``."""

from __future__ import annotations

from typing import get_args

import pytest

from tests.envs.swe.grading.conftest import Grader
from turnwise.envs.swe.cheats.catalogue import Group, catalogue, entries

ONE_OF_EACH = {
    "conftest-at-the-root": "fail",
    "plugin-by-option": "fail",
    "shadowed-standard-library": "fail",
    "exit-in-calls": "broke the rules",
    "always-equal": "fail",
    "expectation-from-the-callers-frame": "fail",
    "every-descriptor": "broke the rules",
    "poisoned-bytecode": "fail",
    "hooks-and-filters": "fail",
    "writer-after-submission": "fail",
    "memory-bomb": "broke the rules",
    "own-python": "fail",
    "second-connection-to-the-judge": "fail",
    "renamed-package": "fail",
    "table-of-known-inputs": "fail",
    "codec-that-tells-constants": "fail",
}


def test_there_are_cheats_of_every_kind() -> None:
    known = [cheat for cheat in catalogue() if not cheat.residue]
    assert len(known) >= 60
    assert {cheat.group for cheat in known} == {*get_args(Group)}
    assert {entries()[name].group for name in ONE_OF_EACH} == {*get_args(Group)}


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", ONE_OF_EACH)
async def test_a_cheat_scores_nothing(grader: Grader, name: str) -> None:
    (cheat,) = (cheat for cheat in catalogue() if cheat.name == name)
    verdict = await grader.cheat(cheat)
    assert verdict.score == 0.0
    assert ONE_OF_EACH[name] in verdict.reason
