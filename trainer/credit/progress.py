"""Paid progress: every milestone is worth something, once.

This changes what is optimised (partial credit counts), unlike potential-based shaping. It makes
learning more reliable where successes are rare. Its known failure: submitting forfeits the progress
still to be had, so on hard tasks an agent may stop submitting; watch the completion rate.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from turnwise.trainer.stage import Columns, credit
from turnwise.trainer.table import TurnTable


@credit("milestones", scope="turn", needs=["reward", "progress"], provides=["step_reward"])
def milestones(t: TurnTable, weight: Annotated[float, Field(ge=0)] = 1.0) -> Columns:
    """Reward is the score, plus a share of ``weight`` for every milestone when first reached.

    All milestones together are worth ``weight``, as much as a full score by default.
    """
    return {"step_reward": t.reward + weight * t.progress}
