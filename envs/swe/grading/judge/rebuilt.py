"""Exceptions that a worker raised, made anew in the judge.

What arrives is a list of class names, the nearest first. The first that is a class of the package as its
reference defines it, or a builtin ``Exception``, is made; none of pytest's outcomes, ``SystemExit`` or
``KeyboardInterrupt`` ever is.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import Any

BUILTIN: dict[str, type[Exception]] = {
    name: value
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, Exception) and not issubclass(value, Warning)
}


class PackageError(Exception):
    """An exception of a class that the reference does not define."""


class Exceptions:
    """``classes`` are the package's exception classes, by module and name."""

    def __init__(self, classes: Mapping[tuple[str, str], type[Exception]]) -> None:
        self._classes = classes

    def make(
        self, names: Sequence[tuple[str, ...]], args: list[Any], text: str, state: dict[str, Any]
    ) -> Exception:
        """Never raises."""
        found: type[Exception] = PackageError
        for module, name in names:
            if (module, name) in self._classes:
                found = self._classes[module, name]
                break
            if module == "builtins" and name in BUILTIN:
                return _builtin(BUILTIN[name], args, text)
        error = found.__new__(found)
        error.args = tuple(args)
        error.__dict__.update({key: value for key, value in state.items() if not key.startswith("__")})
        error.__dict__["_said"] = text
        return error

    def told(self, error: Exception) -> tuple[list[str], bool]:
        """How to raise in the worker what a test's function raised, and whether its arguments apply."""
        for kind in type(error).__mro__:
            for reference, known in self._classes.items():
                if kind is known:
                    return list(reference), True
            if BUILTIN.get(kind.__name__) is kind:
                return ["builtins", kind.__name__], kind is type(error)
        return ["builtins", "RuntimeError"], False


def said(self: Exception) -> str:
    """``__str__`` of the package's exceptions: what the worker's said when it was raised."""
    return str(self.__dict__.get("_said", ""))


def _builtin(kind: type[Exception], args: list[Any], text: str) -> Exception:
    try:
        return kind(*args)
    except TypeError:  # a UnicodeDecodeError wants five arguments of their types
        error = kind.__new__(kind)
        error.args = tuple(args) or (text,)
        return error
