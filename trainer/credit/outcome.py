"""The outcome alone: the score on an episode's last turn is all the reward there is."""

from __future__ import annotations

from turnwise.trainer.stage import Columns, credit
from turnwise.trainer.table import TurnTable


@credit("outcome", scope="turn", needs=["reward"], provides=["step_reward"])
def outcome(t: TurnTable) -> Columns:
    """Reward is the episode's score, on its last turn."""
    return {"step_reward": t.reward}
