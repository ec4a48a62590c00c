"""One of OpenEnv's HTTP routes, and a call of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from turnwise.envs.openenv.mount import Mount
from turnwise.envs.serving.served_session import Principal


@dataclass(frozen=True, slots=True)
class Call:
    """Who calls a route of which environment, and with what."""

    mount: Mount
    caller: Principal
    body: Any
    """Of the route's model; bytes where it has none."""


@dataclass(frozen=True, slots=True)
class Route:
    """A route: what it answers is sent as JSON."""

    method: str
    path: str
    answer: Callable[[Call], Awaitable[object]]
    body: type[BaseModel] | None = None
    who: Literal["everyone", "agents", "trainer"] = "trainer"
    """Who may call it; each includes those after it."""

    @property
    def summary(self) -> str:
        """What it does, in a sentence."""
        return (self.answer.__doc__ or "").partition("\n")[0]
