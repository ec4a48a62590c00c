"""Tools, milestones and reward channels: how a method of an environment becomes part of its interface.

A decorator only marks a method. When an :class:`~turnwise.envs.env.Env` subclass is created, its
marked methods are collected once: a tool's signature becomes a pydantic model, which validates what
the agent sent and gives the JSON Schema it is shown. Nothing is inspected while an episode runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast, overload

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from turnwise.envs.types import AgentView, ToolSpec

Function = TypeVar("Function", bound=Callable[..., Any])

_MARK = "__turnwise__"

_FIELD = "argument_"
"""Starts a model field's name, so that a parameter may be called ``copy`` or ``json`` as well, which
pydantic's own methods are; to the agent the field goes by the parameter's name."""


class ToolError(Exception):
    """Raise it in a tool to tell the agent that its call failed; the turn counts as invalid."""


@dataclass(frozen=True, slots=True)
class ToolMark:
    """What ``@tool`` leaves on a method."""

    submits: bool


@dataclass(frozen=True, slots=True)
class MilestoneMark:
    """What ``@milestone`` leaves on a method."""


@dataclass(frozen=True, slots=True)
class RewardMark:
    """What ``@reward`` leaves on a method."""

    channel: str
    level: int


@overload
def tool(function: Function, /) -> Function: ...
@overload
def tool(*, submits: bool = False) -> Callable[[Function], Function]: ...
def tool(
    function: Function | None = None, /, *, submits: bool = False
) -> Function | Callable[[Function], Function]:
    """Offer a method to the agent. Its docstring is the description; every parameter needs a type.

    With ``submits`` a call that succeeds ends the episode as submitted.
    """

    def mark(target: Function) -> Function:
        setattr(target, _MARK, ToolMark(submits))
        return target

    return mark(function) if function is not None else mark


def milestone(function: Function, /) -> Function:
    """A predicate on the environment's real state, sync or async, looked at after every turn until it
    first holds. The order of definition is the order of the task."""
    setattr(function, _MARK, MilestoneMark())
    return function


def reward(channel: str, *, level: int) -> Callable[[Function], Function]:
    """A reward of every turn: the method returns a float, or None for "not scored".

    ``level`` is the priority: the outcome is 0, the best rank below it 1.
    """

    def mark(target: Function) -> Function:
        setattr(target, _MARK, RewardMark(channel, level))
        return target

    return mark


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of one environment class, ready to be called."""

    spec: ToolSpec
    arguments: type[BaseModel]
    function: Callable[..., Any]
    is_async: bool
    submits: bool

    async def __call__(self, env: object, arguments: dict[str, Any]) -> str | AgentView:
        """Validate and call. Raises :class:`ToolError` for arguments that do not fit."""
        try:
            parsed = self.arguments.model_validate(arguments)
        except ValidationError as error:
            raise ToolError(self._explain(error)) from None
        values = {field.removeprefix(_FIELD): getattr(parsed, field) for field in self.arguments.model_fields}
        result = self.function(env, **values)
        if self.is_async:
            result = await cast("Awaitable[Any]", result)
        if isinstance(result, str | AgentView):
            return result
        raise TypeError(f"tool {self.spec.name} returned {type(result).__name__}; return str or AgentView")

    def _explain(self, error: ValidationError) -> str:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "arguments"
        return f"{self.spec.name}: {field}: {first['msg'].lower()}"


_CLOSED = ConfigDict(
    extra="forbid", allow_inf_nan=False, alias_generator=lambda field: field.removeprefix(_FIELD)
)


def build_tool(name: str, function: Callable[..., Any], mark: ToolMark) -> Tool:
    """Make a :class:`Tool` of a marked method. Raises ``TypeError`` for a parameter without a type."""
    fields: dict[str, Any] = {}
    hints = inspect.get_annotations(function, eval_str=True)
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.name not in hints or parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            raise TypeError(f"tool {name}: parameter {parameter.name} needs a type, and no * or **")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[_FIELD + parameter.name] = (hints[parameter.name], default)
    model = create_model(name, __config__=_CLOSED, **fields)
    schema = model.model_json_schema()
    schema.pop("title", None)
    for entry in schema.get("properties", {}).values():
        entry.pop("title", None)
    spec = ToolSpec(name=name, description=inspect.getdoc(function) or "", parameters=schema)
    return Tool(spec, model, function, inspect.iscoroutinefunction(function), mark.submits)


@dataclass(frozen=True, slots=True)
class Predicate:
    """A milestone or a reward channel of one environment class."""

    name: str
    function: Callable[..., Any]
    is_async: bool
    level: int = 0

    async def __call__(self, env: object) -> Any:
        result = self.function(env)
        return await cast("Awaitable[Any]", result) if self.is_async else result


@dataclass(frozen=True, slots=True)
class Interface:
    """All marked methods of an environment class, in order of definition, bases first."""

    tools: dict[str, Tool]
    specs: tuple[ToolSpec, ...]
    milestones: tuple[Predicate, ...]
    rewards: tuple[Predicate, ...]

    @classmethod
    def of(cls, owner: type) -> Interface:
        """Collect the marked methods of a class and its bases; an override takes its base's place."""
        marked: dict[str, Any] = {}
        for base in reversed(owner.__mro__):
            marked.update({name: value for name, value in vars(base).items() if hasattr(value, _MARK)})
        tools: dict[str, Tool] = {}
        milestones: list[Predicate] = []
        rewards: list[Predicate] = []
        for name, function in marked.items():
            mark, is_async = getattr(function, _MARK), inspect.iscoroutinefunction(function)
            if isinstance(mark, ToolMark):
                tools[name] = build_tool(name, function, mark)
            elif isinstance(mark, MilestoneMark):
                milestones.append(Predicate(name, function, is_async))
            else:
                rewards.append(Predicate(mark.channel, function, is_async, mark.level))
        return cls(tools, tuple(t.spec for t in tools.values()), tuple(milestones), tuple(rewards))
