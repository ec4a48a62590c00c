"""The base of every section of a recipe."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import ConfigDict, Field

from turnwise.envs.types import Model

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]


class Section(Model):
    """Base of every section; field docstrings become descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
