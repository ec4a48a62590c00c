"""Strict potential-based shaping (Ng, Harada and Russell 1999): ``F = gamma * Phi(s') - Phi(s)``.

Phi is the share of milestones reached, or what a model predicts of it. Phi of a terminal state is 0, so
that shaping leaves the optimal policy as it is; an episode that was cut off is not terminal and keeps Phi
of the state it was cut off in. Two identities say what shaping is, and both are tests: the shaped
return-to-go of a finished episode is the raw one minus Phi(s_t), a baseline; and shaped temporal
differences with V = 0 are raw ones with V = Phi. So shaping is a first guess at the value, and wants a
critic that corrects it.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from turnwise.trainer.stage import Columns, credit
from turnwise.trainer.table import TurnTable

NEEDS_CRITIC = (
    "with V = 0 the turn that submits gets R - Phi, so submitting is punished in proportion to the "
    "progress made; without a critic training collapsed in 5 of 5 seeds"
)


@credit(
    "shaping",
    scope="turn",
    needs=["step_reward", "{potential}_before", "{potential}_after", "terminal"],
    provides=["shaped_reward"],
    beside={"value:shaped_reward": NEEDS_CRITIC},
    agree=["gamma"],
)
def shaping(
    t: TurnTable,
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.95,
    potential: str = "potential",
    weight: Annotated[float, Field(ge=0)] = 1.0,
) -> Columns:
    """Reward plus the discounted gain in potential; the potential of a terminal state is 0.

    ``potential`` names the columns ``NAME_before`` and ``NAME_after``, which times ``weight`` are Phi:
    ``potential`` are the environment's milestones, ``predicted_potential`` what the scorer ``critics``
    says of them.
    """
    before = t[f"{potential}_before"]
    after = np.where(t.terminal, 0.0, t[f"{potential}_after"])
    return {"shaped_reward": t.step_reward + weight * (gamma * after - before)}
