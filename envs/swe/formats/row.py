"""What the rows of published data sets have in common."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Row(BaseModel):
    """A row; columns that are not named here are of no use."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


def _listed(value: Any) -> Any:
    """A list of ids, which some data sets write as JSON in a string."""
    return json.loads(value) if isinstance(value, str) else list(value) if value is not None else []


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]

CONDA = "export PATH=/opt/miniconda3/envs/testbed/bin:$PATH"
"""Before each command in the images of SWE-bench and those made like them."""
