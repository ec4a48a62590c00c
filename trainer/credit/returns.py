"""Discounted return-to-go: what followed a turn, and not what came before it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from turnwise.trainer.stage import Columns, credit
from turnwise.trainer.table import TurnTable


@credit("returns", scope="episode", needs=["{of}"], provides=["return"])
def returns(
    t: TurnTable, gamma: Annotated[float, Field(ge=0, le=1)] = 0.95, of: str = "step_reward"
) -> Columns:
    """The discounted sum of rewards from each turn to the episode's end."""
    return {"return": t.return_to_go(t[of], gamma)}
