"""Advantages that are half observation and half prediction, from a critic of success.

    A_t = lam * (R - V(s_t)) + (1 - lam) * (r_t + V(s_t+1) - V(s_t))

The first part trusts what happened, the second what the critic says of the next state, and each covers for
the other where it is wrong. MiRA (arXiv 2603.19685) calls its estimate doubly robust; this form, and 0.5 for
``lam``, are those of the family it belongs to (WebRL), from memory and not read in the paper.

The critic says how probable success is, so nothing is discounted. ``r_t`` may be shaped: then only the
second part feels it. After a terminal turn V is 0. An episode that was cut off goes on, in the second part,
at what the critic says of the last state it saw; in the first it counts as what it scored, which is also
what the critic was taught of it.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from turnwise.trainer.stage import Columns, credit
from turnwise.trainer.table import TurnTable


@credit(
    "doubly_robust",
    scope="turn",
    needs=["{of}", "outcome", "success_before", "success_after", "terminal"],
    provides=["{into}", "value:{of}"],
)
def doubly_robust(
    t: TurnTable,
    of: str = "shaped_reward",
    into: str = "td_advantage",
    lam: Annotated[float, Field(ge=0, le=1)] = 0.5,
) -> Columns:
    """The outcome and the next state, each against the critic's probability of success, mixed.

    ``lam`` 1 is the observed outcome alone, 0 the temporal difference alone. ``value:{of}`` is what the
    turn is compared with.
    """
    value = t.success_before
    observed = t.outcome - value
    difference = t[of] + np.where(t.terminal, 0.0, t.success_after) - value
    return {into: lam * observed + (1 - lam) * difference, f"value:{of}": value}
