"""Advantages from temporal differences, the turn being the action.

``delta_t = r_t + gamma * V(s_t+1) - V(s_t)``, summed with ``(gamma * lambda)^k``: generalised advantage
estimation (arXiv 1506.02438, eq. 16) over turns instead of tokens (as in arXiv 2512.17008).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from turnwise.trainer.stage import Columns, credit
from turnwise.trainer.table import TurnTable


@credit(
    "gae",
    scope="episode",
    needs=["{of}", "value:{of}", "next_value:{of}"],
    provides=["{into}"],
    agree=["gamma"],
)
def gae(
    t: TurnTable,
    of: str = "step_reward",
    into: str = "td_advantage",
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.95,
    lam: Annotated[float, Field(ge=0, le=1)] = 0.9,
) -> Columns:
    """Generalised advantages of the reward ``of``, whose values a critic provides.

    ``lam`` 0 trusts the critic for all but the turn's own reward, 1 only the observed return.
    """
    delta = t[of] + gamma * t[f"next_value:{of}"] - t[f"value:{of}"]
    return {into: t.return_to_go(delta, gamma * lam)}
