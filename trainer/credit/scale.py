"""Scale over the whole batch, so that the learning rate means the same from recipe to recipe."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from turnwise.trainer.stage import Columns, credit
from turnwise.trainer.table import TurnTable


@credit("scale", scope="batch", needs=["{of}"], provides=["{into}"])
def scale(
    t: TurnTable,
    of: str = "td_advantage",
    into: str = "advantage",
    centre: bool = False,
    eps: Annotated[float, Field(gt=0)] = 1e-4,
) -> Columns:
    """Divide by the standard deviation over all turns; with ``centre`` also subtract the mean.

    A batch in which every value is the same tells turns apart in nothing, and becomes 0.
    """
    values = np.asarray(t[of], dtype=np.float64)
    if not len(values) or values.max() == values.min():
        return {into: np.zeros(len(values))}
    return {into: (values - values.mean() * centre) / (values.std() + eps)}
