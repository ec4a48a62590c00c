"""A baseline per turn index: each turn against the same turn of the group's other episodes.

The trap is in episodes that are already over. Averaging over the survivors makes the baseline depend
on who survived, and where the policy itself decides when to stop, that is a bias: an episode is judged
against those that chose to go on. Counting a finished episode at 0, its true value in an absorbing end
state, keeps the baseline free of that choice. MT-GRPO (arXiv 2505.11821) averages over survivors.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from turnwise.trainer.grouping import Grouping
from turnwise.trainer.stage import Columns, credit
from turnwise.trainer.table import TurnTable


@credit("turn_baseline", scope="group", needs=["return"], provides=["advantage"])
def turn_baseline(
    t: TurnTable,
    over: Literal["zero", "skip"] = "zero",
    std: bool = True,
    eps: Annotated[float, Field(gt=0)] = 1e-4,
) -> Columns:
    """Return minus the group's mean return at that turn, over the std of all the group's turns.

    ``over`` says how an episode that has ended counts in the mean: as ``zero``, or not at all
    (``skip``, biased where the policy decides when to stop). A group of one episode gets exactly 0, and
    so does every group whose episodes have the same returns.
    """
    returns = t["return"]
    longest = int(t.index.max(initial=0)) + 1
    peers = Grouping(t.group_id * longest + t.index, t.by_group.count * longest)
    episodes = t.episodes_by_group.spread(t.episodes_by_group.size)[t.episode_id]
    present = peers.spread(peers.size)
    alike = peers.spread(peers.alike(returns)) & ((present == episodes) | (over == "skip"))
    mean = peers.spread(peers.sum(returns)) / (episodes if over == "zero" else present)
    centred = np.where(alike, 0.0, returns - mean)
    if not std:
        return {"advantage": centred}
    return {"advantage": centred / (t.by_group.spread(t.by_group.std(returns)) + eps)}
