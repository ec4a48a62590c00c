"""What an environment server and its clients say to each other, protocol version 1.

A connection is one WebSocket at ``/turnwise/v1`` with JSON objects in text frames, one or several of them a
frame, a line each. The server speaks first: a :class:`Welcome`. Then each :class:`Request` gets one
:class:`Reply` with its ``id``; replies come as they are ready, in any order, so that one connection carries
many sessions. Sessions are named by who opens them, so that one can be closed before it is known to be
open.

A client whose connection drops connects again with the header :data:`LEASE_HEADER` and sends what was not
answered once more, byte for byte: within one session an id stands for one request, which is carried out
once. Ids of a session grow.

What never crosses the wire: a task's secret half, and towards an agent anything of the trainer's.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from turnwise.envs.errors import shown
from turnwise.envs.given import NAME
from turnwise.envs.registry import EnvSpec
from turnwise.envs.serving.faults import MAX_FRAME, Code, Fault, Refusal
from turnwise.envs.types import (
    Action,
    AgentView,
    EndReason,
    EpisodeLimits,
    Model,
    Step,
    StepRecord,
    TaskPublic,
    TaskRef,
)

PROTOCOL: Literal[1] = 1
"""Change it, and the path with it, when an old client can no longer talk to a new server."""
PATH = f"/turnwise/v{PROTOCOL}"
LEASE_HEADER = "Turnwise-Lease"
WORKER_HEADER = "Turnwise-Worker"
"""The number of the worker that a client wants."""
HEARTBEAT = 20.0
"""Seconds between pings, either way; a peer that is silent for half of it more is gone. Short enough that
a client notices well within a lease."""

SANDBOX_SECONDS = 600.0
"""How long a reset may wait for its sandbox."""
FORK_SECONDS = 120.0
GRACE_SECONDS = 30.0
"""Added to what a call may take by its episode's own limits."""

SessionId = Annotated[str, Field(pattern=NAME)]
MessageId = Annotated[int, Field(ge=0, lt=1 << 53)]
Role = Literal["trainer", "agent", "grader", "admin"]


# ---------------------------------------------------------------- requests


class TaskBySeed(Model):
    """The split's task number ``seed``, counted round."""

    kind: Literal["seed"] = "seed"
    seed: int = 0
    split: str = "train"


class TaskByRef(Model):
    """A task that the caller knows; refused where the server's of that name reads differently."""

    kind: Literal["ref"] = "ref"
    ref: TaskRef
    public: TaskPublic
    """The limits are the caller's to choose."""


TaskChoice: TypeAlias = Annotated[TaskBySeed | TaskByRef, Field(discriminator="kind")]


class SessionRequest(Model):
    """Base of the requests."""

    id: MessageId
    session: SessionId


class OpenRequest(SessionRequest):
    """Open a session of one task. Waits for a free place, or takes that of a session, which it closes."""

    type: Literal["open"] = "open"
    env: EnvSpec
    task: TaskChoice
    instead: SessionId | None = None


class AttachRequest(SessionRequest):
    """Learn how a session stands that was opened elsewhere."""

    type: Literal["attach"] = "attach"


class ResetRequest(SessionRequest):
    """Start the episode."""

    type: Literal["reset"] = "reset"


class StepRequest(SessionRequest):
    """One turn."""

    type: Literal["step"] = "step"
    action: Action


class ConcludeRequest(SessionRequest):
    """End the episode for a reason, and grade it."""

    type: Literal["conclude"] = "conclude"
    end: EndReason
    error: str = ""


class ForkRequest(SessionRequest):
    """Sessions that go on from here, under these names."""

    type: Literal["fork"] = "fork"
    twins: tuple[SessionId, ...]


class SnapshotRequest(SessionRequest):
    """Keep how the session stands under a name, in place of what had that name."""

    type: Literal["snapshot"] = "snapshot"
    name: SessionId


class RestoreRequest(SessionRequest):
    """Go back to a snapshot, also after the end."""

    type: Literal["restore"] = "restore"
    name: SessionId


class RecordsRequest(SessionRequest):
    """Learn what the turns so far were worth, and how the episode ended if it did."""

    type: Literal["records"] = "records"


class CloseRequest(SessionRequest):
    """Give up a session, whatever it is doing; it may be still opening."""

    type: Literal["close"] = "close"


Request: TypeAlias = Annotated[
    OpenRequest
    | AttachRequest
    | ResetRequest
    | StepRequest
    | ConcludeRequest
    | ForkRequest
    | SnapshotRequest
    | RestoreRequest
    | RecordsRequest
    | CloseRequest,
    Field(discriminator="type"),
]


# ---------------------------------------------------------------- replies


class SessionInfo(Model):
    """A session as it stands. An agent gets it without ``ref``, which would let it make the task again
    with its secret, and without ``agent_token``."""

    session: SessionId
    env: str
    guide: str
    instruction: str
    limits: EpisodeLimits
    turn: int
    end: EndReason | None
    view: AgentView | None
    """What the agent saw last, with its tools; None before the reset."""
    ref: TaskRef | None = None
    agent_token: str | None = Field(default=None, repr=False)
    """Lets its bearer step this session and nothing else, until it is closed."""


class Welcome(Model):
    """The server's first frame."""

    type: Literal["welcome"] = "welcome"
    protocol: Literal[1] = PROTOCOL
    role: Role
    session: SessionId | None = None
    """The agent's one session."""
    patience: float
    """Seconds that an ``open`` waits for a free place."""
    lease: str = Field(repr=False)
    """The key to come back with; another than the client came with where that lease is over."""
    lease_seconds: float
    """How long the client may stay away."""
    worker: int
    """Which of the server's processes this is; sessions are known to the one that opened them."""
    workers: int


class SessionReply(Model):
    """Answers ``open`` and ``attach``."""

    type: Literal["session"] = "session"
    id: MessageId
    info: SessionInfo


class ResetReply(Model):
    """Answers ``reset``."""

    type: Literal["view"] = "view"
    id: MessageId
    view: AgentView


class StepReply(Model):
    """Answers ``step``; to an agent the step has no record."""

    type: Literal["step"] = "step"
    id: MessageId
    step: Step


class ConcludeReply(Model):
    """Answers ``conclude``. ``end`` differs from what was asked for where grading failed."""

    type: Literal["concluded"] = "concluded"
    id: MessageId
    end: EndReason
    score: float | None
    error: str


class ForkReply(Model):
    """Answers ``fork``."""

    type: Literal["forked"] = "forked"
    id: MessageId
    twins: tuple[SessionInfo, ...]


class SnapshotReply(Model):
    """Answers ``snapshot``."""

    type: Literal["snapshot"] = "snapshot"
    id: MessageId


class RestoreReply(Model):
    """Answers ``restore``."""

    type: Literal["restored"] = "restored"
    id: MessageId
    turn: int
    reached: dict[str, int]
    """Milestones, with their turns."""


class RecordsReply(Model):
    """Answers ``records``."""

    type: Literal["records"] = "records"
    id: MessageId
    records: tuple[StepRecord, ...]
    end: EndReason | None
    score: float | None


class CloseReply(Model):
    """Answers ``close``."""

    type: Literal["closed"] = "closed"
    id: MessageId


class FaultReply(Model):
    """Answers any request; ``id`` is None where the request's could not be read."""

    type: Literal["fault"] = "fault"
    id: MessageId | None
    fault: Fault


Reply: TypeAlias = Annotated[
    SessionReply
    | ResetReply
    | StepReply
    | ConcludeReply
    | ForkReply
    | SnapshotReply
    | RestoreReply
    | RecordsReply
    | CloseReply
    | FaultReply,
    Field(discriminator="type"),
]


# ---------------------------------------------------------------- frames


_REQUEST: TypeAdapter[Request] = TypeAdapter(Request)
_REPLY: TypeAdapter[Reply] = TypeAdapter(Reply)


def read_request(frame: str | bytes) -> Request:
    """A request of a frame. Raises :class:`Refusal` for whatever else the frame holds."""
    if len(frame) > MAX_FRAME:
        raise Refusal(Code.TOO_LARGE, f"the frame has {len(frame):,} bytes")
    try:
        return _REQUEST.validate_json(frame, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        raise Refusal(Code.INVALID_JSON, first["msg"])
    given = from_json(frame)
    number = given.get("id") if isinstance(given, dict) else None
    request = number if type(number) is int and 0 <= number < 1 << 53 else None
    tag = first["type"].startswith("union_tag") and not first["loc"]
    where = ".".join(map(str, first["loc"]))
    value = "" if first["type"] == "missing" else f" = {shown(first['input'])}"
    message = f"{where}{value}: {first['msg']}" if where else first["msg"]
    raise Refusal(Code.UNKNOWN_TYPE if tag else Code.INVALID_REQUEST, message, request=request)


def read_reply(frame: str | bytes) -> Reply:
    """A reply of a frame. Raises ``ValidationError``."""
    return _REPLY.validate_json(frame, strict=True)


# ---------------------------------------------------------------- time


def answer_seconds(request: Request, limits: EpisodeLimits, patience: float) -> float:
    """The seconds within which the server answers a request, in a session of these limits."""
    if request.type == "step":
        own = limits.seconds + 2 * limits.tool_seconds
    elif request.type == "open":
        own = patience
    elif request.type == "reset":
        own = SANDBOX_SECONDS + limits.seconds
    elif request.type == "conclude":
        own = limits.tool_seconds
    elif request.type in ("fork", "snapshot", "restore"):
        own = FORK_SECONDS
    else:
        own = 0.0
    return own + GRACE_SECONDS
