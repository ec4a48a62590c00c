"""Stages of credit: small functions from columns of the turn table to new columns.

A stage says which columns it needs and which it provides, and takes its parameters from the signature
of its function. That is all a recipe needs to know to put stages in order, to refuse a graph that
cannot work, and to show a schema. Column names may speak of parameters: a stage that needs ``{of}``
reads whichever column its parameter ``of`` names, and one that provides ``value:{of}`` says of which
reward it is the value. Where the parameter is a list or a mapping, the name stands for a column for each
of its entries or keys.

    @credit("decay", scope="episode", needs=["reward"], provides=["step_reward"])
    def decay(t: TurnTable, gamma: float = 0.9):
        return {"step_reward": t.reward * gamma**t.index}

A function with a parameter named ``state`` keeps state: it gets what it returned last (at first an
empty mapping) and returns ``columns, state``. State is plain JSON, because it goes into the checkpoint
and a resumed run must go on as an unbroken one would.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import filter as matching
from functools import cached_property
from itertools import product
from string import Formatter
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_type_hints

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, create_model

from turnwise.envs.errors import UsageError, invalid, unknown
from turnwise.envs.registry import load_plugins
from turnwise.trainer.columns import TOKEN
from turnwise.trainer.grouping import Array
from turnwise.trainer.table import TurnTable

Scope: TypeAlias = Literal["turn", "episode", "group", "batch"]
"""The rows that a stage's result for one turn may depend on: the turn's own, its episode's, its
group's, or all."""
State: TypeAlias = Mapping[str, JsonValue]
Columns: TypeAlias = Mapping[str, Array]
Function = TypeVar("Function", bound=Callable[..., Any])


class StageError(RuntimeError):
    """A stage's function broke its promise: columns missing, of a wrong length, or not finite."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A kind of stage, as registered."""

    name: str
    scope: Scope
    needs: tuple[str, ...]
    provides: tuple[str, ...]
    beside: Mapping[str, str]
    """Columns that another stage of the recipe must provide though this one does not read them, with
    the reason."""
    agree: tuple[str, ...]
    """Parameters that must be the same in all stages of a recipe that name them here."""
    params: type[BaseModel]
    stateful: bool
    function: Callable[..., Any]

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def bind(self, params: Mapping[str, Any]) -> BoundStage:
        """The stage with its parameters. Raises ``UsageError`` for one that does not fit."""
        try:
            return BoundStage(self, self.params.model_validate(dict(params)))
        except ValidationError as error:
            raise invalid(f"stage {self.name}", error, self.params) from None

    def could_provide(self, column: str) -> bool:
        """Whether some choice of parameters makes the stage provide a column."""
        for template in self.provides:
            fixed = [re.escape(literal) for literal, *_ in Formatter().parse(template)]
            if any(fixed) and re.fullmatch(".+".join(fixed) + (".+" if template[-1] == "}" else ""), column):
                return True
        defaults = {n: f.default for n, f in self.params.model_fields.items() if not f.is_required()}
        return column in _columns(self.provides, defaults)


def _columns(templates: Sequence[str], values: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that templates name, given the parameters' values; the place of a parameter without
    one stays as it is written."""
    names: list[str] = []
    for template in templates:
        fields = [field for _, field, *_ in Formatter().parse(template) if field is not None]
        entries = [_entries(values.get(field, f"{{{field}}}")) for field in fields]
        names += [template.format(**dict(zip(fields, chosen, strict=True))) for chosen in product(*entries)]
    return tuple(names)


def _entries(value: Any) -> Sequence[Any]:
    return [*value] if isinstance(value, list | tuple | Mapping) else [value]


@dataclass(frozen=True)
class BoundStage:
    """A stage with its parameters: a node of a recipe's graph."""

    stage: Stage
    params: BaseModel

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """Columns read; a name with ``*`` stands for all that match."""
        return self._resolve(self.stage.needs)

    @cached_property
    def provides(self) -> tuple[str, ...]:
        """Columns given."""
        return self._resolve(self.stage.provides)

    @property
    def beside(self) -> dict[str, str]:
        """Columns that must be provided though they are not read, with the reason."""
        return {self._resolve([column])[0]: why for column, why in self.stage.beside.items()}

    def _resolve(self, templates: Sequence[str]) -> tuple[str, ...]:
        return _columns(templates, self.params.model_dump())

    def apply(self, table: TurnTable, state: State) -> tuple[Columns, State]:
        """Run on a table that has the needed columns: the new columns, and the state for next time.

        The function sees the columns it needs and the keys, nothing else. Raises :class:`StageError`
        for a result that breaks the declaration; what the function raises gets a note and propagates.
        """
        given = table.columns
        seen = {name for need in self.needs for name in ([need] if need in given else matching(given, need))}
        arguments: dict[str, Any] = {
            name: getattr(self.params, name) for name in type(self.params).model_fields
        }
        if self.stage.stateful:
            arguments["state"] = state
        try:
            result = self.stage.function(table.only(seen), **arguments)
        except Exception as error:
            error.add_note(f"in credit stage {self.name!r}, on {len(table)} turns")
            raise
        if not self.stage.stateful:
            return self._checked(result, table), state
        if not (isinstance(result, tuple) and len(result) == 2):
            raise StageError(f"stage {self.name!r} takes state and must return (columns, state)")
        return self._checked(result[0], table), self._plain(result[1])

    def _checked(self, result: object, table: TurnTable) -> Columns:
        if not isinstance(result, Mapping) or set(result) != set(self.provides):
            got = ", ".join(map(str, result)) if isinstance(result, Mapping) else type(result).__name__
            raise StageError(f"stage {self.name!r} provides {', '.join(self.provides)}; it returned {got}")
        columns = {name: np.asarray(column) for name, column in result.items()}
        for name, column in columns.items():
            rows, entry = table.length_of(name), "token" if name.startswith(TOKEN) else "turn"
            if column.shape != (rows,) or column.dtype.kind not in "biuf":
                raise StageError(
                    f"stage {self.name!r}: column {name!r} must hold a number for each of {rows} {entry}s; "
                    f"got {column.dtype} of shape {column.shape}"
                )
            bad = np.flatnonzero(~np.isfinite(column))
            if len(bad):
                raise StageError(
                    f"stage {self.name!r}: column {name!r} is not finite in {len(bad)} of {rows} rows, "
                    f"first in row {bad[0]} ({column[bad[0]]})"
                )
        return columns

    def _plain(self, state: object) -> State:
        """Through JSON and back, so that a run sees the same state whether or not it was resumed."""
        try:
            plain = json.loads(json.dumps(state, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise StageError(f"stage {self.name!r}: its state must be plain JSON: {error}") from None
        if not isinstance(plain, dict):
            raise StageError(f"stage {self.name!r}: its state must be a mapping, not {type(state).__name__}")
        return plain


# ---------------------------------------------------------------- registry

_STAGES: dict[str, Stage] = {}


def credit(
    name: str,
    *,
    scope: Scope,
    needs: Sequence[str] = (),
    provides: Sequence[str],
    beside: Mapping[str, str] | None = None,
    agree: Sequence[str] = (),
) -> Callable[[Function], Function]:
    """Register a function of a :class:`TurnTable` as a stage of credit.

    Parameters after the table become the stage's parameters: each needs an annotation. The function is
    returned as it is. Raises ``UsageError`` when the name is another function's or the declaration does
    not fit the signature.
    """

    def register(function: Function) -> Function:
        params, stateful = _parameters(name, function)
        stage = Stage(
            name=name,
            scope=scope,
            needs=tuple(needs),
            provides=tuple(provides),
            beside=dict(beside or {}),
            agree=tuple(agree),
            params=params,
            stateful=stateful,
            function=function,
        )
        _check_declaration(stage, (needs, provides, agree))
        known = _STAGES.get(name)
        if known is not None and _origin(known.function) != _origin(function):
            raise UsageError(f"stage {name!r} is already defined by {_origin(known.function)}; choose a name")
        _STAGES[name] = stage
        return function

    return register


def stages() -> dict[str, Stage]:
    """All stages by name: built in, from plugins, and defined by the program."""
    importlib.import_module("turnwise.trainer.credit")
    load_plugins()
    return dict(sorted(_STAGES.items()))


def find_stage(name: str) -> Stage:
    """The stage of a name. Raises ``UsageError`` naming the nearest match."""
    known = stages()
    if name not in known:
        raise unknown("credit stage", name, known)
    return known[name]


def _origin(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _parameters(name: str, function: Callable[..., Any]) -> tuple[type[BaseModel], bool]:
    """The model of a stage's parameters, and whether it keeps state."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    stateful = any(parameter.name == "state" for parameter in parameters)
    chosen = [parameter for parameter in parameters if parameter.name != "state"]
    wrong = [p.name for p in chosen if p.annotation is p.empty or p.kind is not p.POSITIONAL_OR_KEYWORD]
    if wrong:
        raise UsageError(f"stage {name!r}: parameters {', '.join(wrong)} need an annotation, and no * or **")
    holder = type(name, (), {"__annotations__": {p.name: p.annotation for p in chosen}})
    try:
        hints = get_type_hints(holder, globalns=function.__globals__, include_extras=True)
    except NameError as error:
        raise UsageError(f"stage {name!r}: an annotation cannot be resolved: {error}") from None
    fields: dict[str, Any] = {
        p.name: (hints[p.name], ... if p.default is p.empty else p.default) for p in chosen
    }
    config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    return create_model(name, __config__=config, **fields), stateful


def _check_declaration(stage: Stage, lists: tuple[Sequence[str], ...]) -> None:
    if any(isinstance(given, str) for given in lists):
        raise UsageError(f"stage {stage.name!r}: needs, provides and agree are lists of names")
    if stage.scope not in get_args(Scope):
        raise unknown(f"scope of stage {stage.name}", stage.scope, get_args(Scope))
    if not stage.provides:
        raise UsageError(f"stage {stage.name!r} provides no column; name at least one")
    templates = (*stage.needs, *stage.provides, *stage.beside)
    spoken = {field for text in templates for _, field, *_ in Formatter().parse(text) if field is not None}
    for field in sorted(spoken.union(stage.agree) - set(stage.params.model_fields)):
        raise unknown(f"parameter of stage {stage.name}", field, stage.params.model_fields)
