"""The catalogue as the audit of an environment of software repair tries it: on its own tasks."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnwise.envs.cheat import Cheat
from turnwise.envs.swe.cheats.catalogue import Desk, catalogue
from turnwise.envs.swe.grading.rules import Rules, Tree
from turnwise.sandbox.contract import Sandbox

if TYPE_CHECKING:
    from turnwise.envs.swe.environment import SweEnv


@dataclass(frozen=True, slots=True)
class Started:
    """A started episode, as cheats see it."""

    sandbox: Sandbox
    base: Tree
    reference: Tree
    rules: Rules


def cheats() -> tuple[Cheat[SweEnv], ...]:
    """Every cheat of the catalogue."""
    return tuple(
        Cheat(cheat.name, cheat.group, functools.partial(_apply, cheat), cheat.residue, cheat.ending)
        for cheat in catalogue()
    )


async def _apply(cheat: Cheat[Desk], env: SweEnv) -> None:
    base, gold = await env.base_files(), await env.gold()
    reference = {path: data for path, data in {**base, **gold}.items() if data is not None}
    declared = env.swe.sources or tuple(sorted(gold))
    faulty_first = sorted(declared, key=lambda source: not any(path.startswith(source) for path in gold))
    rules = Rules(sources=tuple(faulty_first))
    await cheat.apply(Started(env.sandbox, base, reference, rules))
