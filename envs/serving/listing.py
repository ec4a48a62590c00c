"""What a server says of itself over HTTP: its environments, its sessions and that it is up."""

from __future__ import annotations

from typing import Literal

from turnwise.envs.serving.wire import PROTOCOL, Role, SessionId
from turnwise.envs.types import EndReason, JsonSchema, Model, Split, ToolSpec


class EnvInfo(Model):
    """What an environment is like."""

    name: str
    guide: str
    tools: tuple[ToolSpec, ...]
    milestones: tuple[str, ...]
    channels: dict[str, int]
    """Reward channels with their levels."""
    options: JsonSchema
    splits: dict[Split, int]
    """Tasks in each."""


class EnvList(Model):
    """What a server offers."""

    protocol: Literal[1] = PROTOCOL
    environments: tuple[EnvInfo, ...]


class Health(Model):
    """That the server is up, and whether it takes in more."""

    status: Literal["healthy", "draining"]


class SessionLine(Model):
    """An open session, as an operator sees it."""

    session: SessionId
    env: str
    worker: int
    turn: int
    state: Literal["new", "running", "waiting", "ended"]
    """Not yet reset, carrying out a call, waiting for one, or with its episode over."""
    end: EndReason | None
    age: float
    """Seconds since it was opened."""
    idle: float
    """Seconds since its last call began."""
    caller: Role
    """Who made that."""
    memory: int | None
    """Bytes that its environment's objects held when it was weighed last; None before."""


class SessionList(Model):
    """The sessions that are open."""

    sessions: tuple[SessionLine, ...]
