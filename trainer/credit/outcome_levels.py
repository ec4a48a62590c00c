"""The outcome on four levels: how far an episode came towards handing in something that is right.

This is the outcome reward of the software-repair instance of gated accumulation (G-RA, arXiv
2508.10548): not submitted < submitted unchanged < submitted modified < solved. The paper gives the order;
the values are ours. The environment says whether what was submitted was modified, in a channel of that
name, scored on the submitting turn.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from turnwise.envs.errors import UsageError
from turnwise.trainer.stage import Columns, credit
from turnwise.trainer.table import TurnTable


class OutcomeValues(BaseModel):
    """What each outcome is worth, in [0, 1], the better never less than the worse."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    not_submitted: float = Field(default=0.0, ge=0, le=1)
    """The episode ended in another way."""
    unchanged: float = Field(default=0.1, ge=0, le=1)
    """What was given was handed in as it was."""
    modified: float = Field(default=0.2, ge=0, le=1)
    """What was handed in is another thing, and not right."""
    solved: float = Field(default=1.0, ge=0, le=1)
    """What was handed in has the full score."""

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        values = [(name, getattr(self, name)) for name in type(self).model_fields]
        for (worse, low), (better, high) in pairwise(values):
            if high < low:
                raise UsageError(f"{better} = {high:g} is less than {worse} = {low:g}, a worse outcome")
        return self


DEFAULT = OutcomeValues()


@credit(
    "outcome_levels",
    scope="episode",
    needs=["outcome", "submitted", "channel:modified"],
    provides=["outcome_level"],
)
def outcome_levels(t: TurnTable, values: OutcomeValues = DEFAULT) -> Columns:
    """What an episode's outcome is worth, on its last turn: submitted or not, modified, solved.

    Solved is a full score that was submitted. Raises ``UsageError`` for an episode that was submitted,
    is not solved, and of which the environment did not say whether it was modified.
    """
    changed = t["channel:modified"]
    solved = t.submitted & (t.outcome >= 1)
    unknown = np.flatnonzero(t.submitted & ~solved & np.isnan(changed))
    if len(unknown):
        episode = t.names["episode_id"][t.episode_id[unknown[0]]]
        raise UsageError(
            f"channel 'modified' is not scored where {len(unknown)} episodes were submitted, the first of "
            f"them {episode}; score it on the submitting turn"
        )
    worth = np.select(
        [solved, t.submitted & (changed > 0), t.submitted],
        [values.solved, values.modified, values.unchanged],
        values.not_submitted,
    )
    return {"outcome_level": np.where(t.last, worth, 0.0)}
