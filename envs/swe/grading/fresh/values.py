"""Inputs as text, and answers in a form in which two that are equal are the same.

An input is the JSON of :mod:`..codec`; beside plain values it may hold functions and classes of a few
modules of the standard library, by name.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Set
from typing import Any, TypeAlias

from turnwise.envs.swe.grading import codec

Input: TypeAlias = "tuple[list[Any], dict[str, Any]]"
"""Arguments by place and by name."""
LONGEST = 600
"""Characters of an input that is remembered."""
KNOWN = frozenset({"builtins", "math", "operator"})
UNFIT = frozenset(
    {"breakpoint", "compile", "eval", "exec", "exit", "help", "input", "memoryview", "open", "print"}
    | {"quit", "__import__"}
)


class NotPlain(Exception):
    """A value that cannot be written down."""


def _refer(value: Any, depth: int) -> Any:
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module in KNOWN and isinstance(name, str) and _named(module, name) is value:
        return {"std": [module, name]}
    raise NotPlain(type(value).__name__)


def _named(module: str, name: str) -> Any:
    if name in UNFIT:
        return None
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _resolve(tag: str, payload: Any, depth: int) -> Any:
    if tag == "std" and payload[0] in KNOWN:
        found = _named(*payload)
        if found is not None:
            return found
    raise codec.Malformed(tag)


_inputs = codec.Codec(_refer, _resolve)


def written(value: Input) -> str | None:
    """An input as text; None where it is not plain, or long."""
    try:
        args, kwargs = value
        text = json.dumps([_inputs.encode(list(args)), _inputs.encode(dict(kwargs))])
    except (NotPlain, ValueError, RecursionError):
        return None
    return text if len(text) <= LONGEST else None


def read(text: str) -> Input:
    """The input of a text, made anew."""
    args, kwargs = (_inputs.decode(part) for part in json.loads(text))
    return args, kwargs


def alike(value: Any) -> Any:
    """Of a plain value, what all that are equal to it have in common. Raises :class:`NotPlain`.

    Floats are equal to nine digits: another order of additions is no mistake.
    """
    kind = type(value)
    if kind in (int, bool):
        return int(value)
    if kind is float:
        return int(value) if value.is_integer() and abs(value) < 1e9 else format(value, ".9g")
    if value is None or kind is str:
        return [value]
    if isinstance(value, Set) and kind in (set, frozenset):
        return {"set": _sorted(map(alike, value))}
    if kind in _PARTS:
        tag, parts = _PARTS[kind]
        return {tag: parts(value)}
    if kind in codec.PLAIN:
        return codec.Codec(_refer, _resolve).encode(value)
    raise NotPlain(kind.__name__)


def _sorted(parts: Any) -> list[Any]:
    return sorted(parts, key=json.dumps)


def _items(value: Any) -> list[Any]:
    return _sorted([alike(key), alike(item)] for key, item in value.items())


def _list(value: Any) -> list[Any]:
    return [alike(item) for item in value]


_PARTS: dict[type, tuple[str, Callable[[Any], list[Any]]]] = {
    kind: ("dict", _items) if issubclass(kind, dict) else (tag, _list)
    for kind, (tag, _, _) in codec.CONTAINERS.items()
    if kind not in (set, frozenset, slice)
}
_PARTS[list] = ("list", _list)
