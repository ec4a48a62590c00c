"""What OpenEnv's clients send, as pydantic models: frames, bodies, actions, JSON-RPC requests.

A frame or a body that fails its model is answered with the list of what is wrong with it. An action is
OpenEnv's own for tools, ``call_tool`` or ``list_tools``; whatever a model may get wrong in a call, the name
of the tool or its arguments, fits the model and is the environment's to refuse.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from turnwise.envs.types import SPLITS, TaskPublic, TaskRef


class Closed(BaseModel):
    """Base of what may have no other keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Open(BaseModel):
    """Base of what may have other keys, which are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


# ---------------------------------------------------------------- actions


class CallToolAction(Closed):
    """Call a tool: one turn."""

    metadata: dict[str, Any] = Field(default={}, description="Ignored")
    type: Literal["call_tool"] = "call_tool"
    tool_name: str = Field(description="Name of the tool to call")
    arguments: Any = Field(
        default={},
        description="Arguments to pass to the tool",
        json_schema_extra={"type": "object", "additionalProperties": True},
    )


class ListToolsAction(Closed):
    """Ask for the tools; not a turn, and possible before the reset."""

    metadata: dict[str, Any] = {}
    type: Literal["list_tools"]


OpenEnvAction: TypeAlias = CallToolAction | ListToolsAction


def read_action(data: dict[str, Any]) -> OpenEnvAction:
    """An action of its JSON. Raises ``ValidationError``."""
    if data.get("type") == "list_tools":
        return ListToolsAction.model_validate(data)
    return CallToolAction.model_validate(data)


# ---------------------------------------------------------------- reset and step


class KnownTask(Open):
    """A task as the task routes give it."""

    ref: TaskRef
    public: TaskPublic


class ResetData(Open):
    """How to start an episode: the task of the number ``seed`` of a split, counted round, the one given,
    or without either one at random."""

    seed: int | None = None
    episode_id: str | None = None
    split: str = Field(default="train", json_schema_extra={"enum": list(SPLITS)})
    task: KnownTask | None = None


class ResetBody(ResetData):
    """Body of ``POST /reset``."""

    seed: int | None = Field(default=None, ge=0)
    episode_id: str | None = Field(default=None, max_length=255)


class StepBody(Open):
    """Body of ``POST /step``. The environment's own limits are its time-out."""

    action: dict[str, Any]
    timeout_s: float | None = Field(default=None, gt=0)
    request_id: str | None = Field(default=None, max_length=255)


# ---------------------------------------------------------------- frames


class ResetFrame(Closed):
    """``{"type":"reset","data":{…}}``"""

    type: Literal["reset"]
    data: ResetData = ResetData()


class StepFrame(Closed):
    """``{"type":"step","data":ACTION}``"""

    type: Literal["step"]
    data: dict[str, Any]


class StateFrame(Closed):
    """``{"type":"state"}``"""

    type: Literal["state"]


class CloseFrame(Closed):
    """``{"type":"close"}``"""

    type: Literal["close"]


class McpFrame(Closed):
    """``{"type":"mcp","data":JSON-RPC}``"""

    type: Literal["mcp"]
    data: dict[str, Any]


Frame: TypeAlias = ResetFrame | StepFrame | StateFrame | CloseFrame | McpFrame
FRAMES: dict[object, type[Frame]] = {
    "reset": ResetFrame,
    "step": StepFrame,
    "state": StateFrame,
    "close": CloseFrame,
    "mcp": McpFrame,
}


# ---------------------------------------------------------------- the task routes


class SplitBody(Closed):
    """Names a split."""

    split: str = Field(json_schema_extra={"enum": list(SPLITS)})


class TaskBody(SplitBody):
    """Names a task of a split."""

    index: int


class RangeBody(SplitBody):
    """Names tasks of a split, as a slice does."""

    start: int | None = None
    stop: int | None = None


# ---------------------------------------------------------------- JSON-RPC


class RpcRequest(Closed):
    """A request of JSON-RPC 2.0; one without ``id`` is answered too."""

    jsonrpc: Literal["2.0"]
    method: str
    params: dict[str, Any] = {}
    id: str | int | None = None


# ---------------------------------------------------------------- answers


class State(BaseModel):
    """How a session stands."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    episode_id: str | None = Field(default=None, description="Name of the episode; null before the reset")
    step_count: int = Field(default=0, ge=0, description="Turns taken in the episode")
    end: str | None = Field(default=None, description="Why the episode ended; null while it goes on")


class ToolInfo(BaseModel):
    """A tool that an agent may call."""

    name: str
    description: str
    input_schema: dict[str, Any]


class ToolFailure(BaseModel):
    """Why a call was not carried out."""

    error_type: Literal["tool_not_found", "invalid_args", "execution_error"]
    message: str


class Image(BaseModel):
    """An image, in base64."""

    media_type: str
    data: str


class ResetObservation(BaseModel):
    """What an agent sees first."""

    metadata: dict[str, Any] = {}
    guide: str = Field(default="", description="The environment's standing guide for agents")
    text: str = Field(description="The task, as the agent sees it")
    images: list[Image] = []


class Observation(BaseModel):
    """What an agent sees after a call of a tool, or in ``tools`` of what it asked for with ``list_tools``."""

    metadata: dict[str, Any] = {}
    tool_name: str | None = None
    result: str | None = Field(default=None, description="What the tool answered; null where it failed")
    error: ToolFailure | None = None
    images: list[Image] = []
    tools: list[ToolInfo] | None = None


def problems(error: ValidationError, *within: str) -> list[dict[str, Any]]:
    """What is wrong with a message, as OpenEnv lists it; ``within`` is where it stood."""
    return [
        {**problem, "loc": [*within, *problem["loc"]]}
        for problem in error.errors(include_context=False, include_url=True)
    ]
