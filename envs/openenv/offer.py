"""An environment as OpenEnv's clients know one: tools to call, observations, a reward, done.

An action is a call of one tool. What an agent of ours can do without a tool is one here: ``finish`` ends the
episode as submitted, ``say`` is there where the environment answers words; a tool of the environment's own
by that name comes first. The reward is the score, on the last turn alone, and null before, which is not 0.
What else the trainer gets, the record of the turn, stands in ``metadata`` beside the observation and never
within it: OpenEnv's consumers show the observation to the model.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from pydantic import ValidationError

from turnwise.envs.env import Env, describe
from turnwise.envs.errors import invalid
from turnwise.envs.openenv.messages import CallToolAction, Observation, ResetObservation, State
from turnwise.envs.registry import EnvSpec
from turnwise.envs.types import (
    Action,
    AgentView,
    CallAction,
    FinishAction,
    ImageBlock,
    InvalidAction,
    JsonSchema,
    Model,
    Step,
    TextAction,
    ToolCall,
    ToolSpec,
)

Result = dict[str, Any]
"""``observation``, ``reward`` and ``done``, and ``metadata`` where there is some."""
MISTAKE = "error: "
"""What a turn that was not carried out begins with, to the agent."""


class Finish(Model):
    """End the episode and hand in the state as it is."""

    answer: str = ""


class Say(Model):
    """Say something without calling a tool."""

    text: str


class Offer:
    """One environment that is served. See the module."""

    def __init__(self, spec: EnvSpec) -> None:
        env = type(spec.make())
        self.spec = spec
        self.name = str(spec).replace("?", ";").replace("&", ";")
        """The environment with its options, fit for a path."""
        self.guide = describe(env)
        self.version = env.version
        self._tools = env.interface.tools
        extra = {"finish": Finish} | ({"say": Say} if env.said is not Env.said else {})
        self._extra: dict[str, type[Finish | Say]] = {
            name: form for name, form in extra.items() if name not in self._tools
        }
        self.tools: tuple[ToolSpec, ...] = (
            *env.interface.specs,
            *(_tool(name, form) for name, form in self._extra.items()),
        )

    def schemas(self) -> dict[str, JsonSchema]:
        """What ``GET /schema`` answers."""
        return {
            "action": CallToolAction.model_json_schema(),
            "observation": Observation.model_json_schema(),
            "reset_observation": ResetObservation.model_json_schema(),
            "state": State.model_json_schema(),
        }

    def action(self, given: CallToolAction) -> Action:
        """The turn that a call of a tool is; an invalid one where its arguments are none."""
        form = self._extra.get(given.tool_name)
        try:
            if form is None:
                return CallAction(calls=(ToolCall(name=given.tool_name, arguments=given.arguments),))
            said = form.model_validate(given.arguments)
        except ValidationError as error:
            mistake = str(invalid(given.tool_name, error, form or ToolCall))
            return InvalidAction(
                text=given.model_dump_json(include={"tool_name", "arguments"}), error=mistake
            )
        return FinishAction(answer=said.answer) if isinstance(said, Finish) else TextAction(text=said.text)

    # -- results

    def listed(self) -> Result:
        """Answers ``list_tools``."""
        tools = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
            for tool in self.tools
        ]
        return {"observation": {"metadata": {}, "tools": tools}, "reward": None, "done": False}

    def opening(self, view: AgentView, metadata: dict[str, Any]) -> Result:
        """Answers a reset."""
        observation = {"metadata": {}, "guide": self.guide, "text": view.text, **_images(view)}
        return {"observation": observation, "reward": None, "done": False, "metadata": metadata}

    def turn(self, given: CallToolAction, step: Step) -> Result:
        """Answers a call of a tool."""
        record, text = step.record, step.view.text
        failed = text.startswith(MISTAKE) if record is None else not record.valid
        observation = {
            "metadata": {},
            "tool_name": given.tool_name,
            "result": None if failed else text,
            "error": self._failure(given, text) if failed else None,
            **_images(step.view),
        }
        result: Result = {"observation": observation, "reward": None, "done": step.end is not None}
        if record is not None:
            result["reward"] = record.score
            result["metadata"] = record
        return result

    def _failure(self, given: CallToolAction, text: str) -> dict[str, str]:
        tool = self._tools.get(given.tool_name)
        form = self._extra.get(given.tool_name) if tool is None else tool.arguments
        kind = "execution_error"
        if form is None:
            kind = "tool_not_found"
        else:
            try:
                form.model_validate(given.arguments)
            except ValidationError:
                kind = "invalid_args"
        return {"error_type": kind, "message": text.removeprefix(MISTAKE)}


def _tool(name: str, form: type[Model]) -> ToolSpec:
    schema = form.model_json_schema()
    description = schema.pop("description")
    del schema["title"]
    return ToolSpec(name=name, description=description, parameters=schema)


def _images(view: AgentView) -> dict[str, list[dict[str, str]]]:
    images = [
        {"media_type": block.media_type, "data": b64encode(block.data).decode()}
        for block in view.content
        if isinstance(block, ImageBlock)
    ]
    return {"images": images} if images else {}
