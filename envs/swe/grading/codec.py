"""Values on the wire between judge and worker: JSON in which every exact builtin type has its own form.

Both sides use this module, and it needs the standard library only, of Python 3.8 or newer: a repository's
own interpreter runs the worker. ``encode`` writes a value whose type
*is* one of the known types; anything else, a subclass included, goes to the side's own ``refer``.
``decode`` constructs: what comes out is an exact builtin made here, whatever the far side claims, or what
the side's own ``resolve`` makes of a tag. Nothing is ever evaluated, imported or unpickled.

A value is ``null``, a boolean, a number, a string, an array (a list), or an object of exactly one key: a
tag and its payload, as in ``{"tuple": [1, 2]}``.
"""

from __future__ import annotations

import base64
import collections
import datetime
import decimal
import fractions
import pathlib
from collections.abc import Callable
from typing import Any

Json = Any
"""What ``json.loads`` returns."""

DEEPEST = 40
"""Containers in containers."""
LARGEST_PLAIN = 1 << 64
"""Larger integers travel as hexadecimal: decimal conversion of a huge one is quadratic, and refused."""


class Malformed(ValueError):
    """What arrived is no value of this protocol."""


def _items(value: Any) -> list[list[Any]]:
    return [[key, item] for key, item in value.items()]


PLAIN: dict[type, tuple[str, Callable[[Any], Json], Callable[[Any], Any]]] = {
    bytes: (
        "bytes",
        lambda v: base64.b64encode(v).decode(),
        lambda p: base64.b64decode(_text(p), validate=True),
    ),
    bytearray: (
        "bytearray",
        lambda v: base64.b64encode(v).decode(),
        lambda p: bytearray(base64.b64decode(_text(p), validate=True)),
    ),
    complex: ("complex", lambda v: [v.real, v.imag], lambda p: complex(*_numbers(p, 2))),
    range: ("range", lambda v: [v.start, v.stop, v.step], lambda p: range(*_integers(p, 3))),
    decimal.Decimal: ("Decimal", str, lambda p: decimal.Decimal(_text(p))),
    fractions.Fraction: (
        "Fraction",
        lambda v: [v.numerator, v.denominator],
        lambda p: fractions.Fraction(*_integers(p, 2)),
    ),
    datetime.datetime: (
        "datetime",
        _iso := (lambda v: v.isoformat()),
        lambda p: _from_iso(datetime.datetime, p),
    ),
    datetime.date: ("date", _iso, lambda p: _from_iso(datetime.date, p)),
    datetime.time: ("time", _iso, lambda p: _from_iso(datetime.time, p)),
    datetime.timedelta: (
        "timedelta",
        lambda v: [v.days, v.seconds, v.microseconds],
        lambda p: datetime.timedelta(*_integers(p, 3)),
    ),
    pathlib.PurePosixPath: ("PurePosixPath", str, lambda p: pathlib.PurePosixPath(_text(p))),
    pathlib.PosixPath: ("Path", str, lambda p: pathlib.PosixPath(_text(p))),
}
"""Type: tag, to a payload that is already JSON, from one. Times with a zone of their own go by reference."""

CONTAINERS: dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    tuple: ("tuple", list, tuple),
    set: ("set", list, set),
    frozenset: ("frozenset", list, frozenset),
    dict: ("dict", _items, lambda pairs: dict(_pairs(pairs))),
    slice: ("slice", lambda v: [v.start, v.stop, v.step], lambda p: slice(*p)),
    collections.OrderedDict: ("OrderedDict", _items, lambda pairs: collections.OrderedDict(_pairs(pairs))),
    collections.Counter: ("Counter", _items, lambda pairs: collections.Counter(dict(_pairs(pairs)))),
    collections.deque: ("deque", list, collections.deque),
}
"""Type: tag, to a list of values, from such a list decoded."""

_FROM_PLAIN = {tag: make for tag, _, make in PLAIN.values()}
_FROM_CONTAINER = {tag: make for tag, _, make in CONTAINERS.values()}
_ZONED = (datetime.datetime, datetime.time)


class Codec:
    """``refer`` writes what is no plain value; ``resolve(tag, payload)`` reads it or raises ``Malformed``."""

    def __init__(self, refer: Callable[[Any, int], Json], resolve: Callable[[str, Json, int], Any]) -> None:
        self._refer, self._resolve = refer, resolve

    def encode(self, value: Any, depth: int = 0) -> Json:
        kind = type(value)
        if value is None or kind is bool or kind is str or kind is float:
            return value
        if kind is int:
            return value if -LARGEST_PLAIN < value < LARGEST_PLAIN else {"int": hex(value)}
        if depth > DEEPEST:
            return self._refer(value, depth)
        if kind is list:
            return [self.encode(item, depth + 1) for item in value]
        if kind in CONTAINERS and not (kind is collections.deque and value.maxlen is not None):
            tag, unpack, _ = CONTAINERS[kind]
            return {tag: [self.encode(item, depth + 1) for item in unpack(value)]}
        if kind in PLAIN and not (kind in _ZONED and value.tzinfo is not None):
            return {PLAIN[kind][0]: PLAIN[kind][1](value)}
        return self._refer(value, depth)

    def decode(self, data: Json, depth: int = 0) -> Any:
        """Raises ``Malformed``."""
        kind = type(data)
        if data is None or kind is bool or kind is int or kind is float or kind is str:
            return data
        if depth > 2 * DEEPEST:
            raise Malformed("values nested too deeply")
        if kind is list:
            return [self.decode(item, depth + 1) for item in data]
        if kind is not dict or len(data) != 1:
            raise Malformed("an object that is no tagged value")
        ((tag, payload),) = data.items()
        try:
            if tag == "int":
                return int(_text(payload), 16)
            if tag in _FROM_PLAIN:
                return _FROM_PLAIN[tag](payload)
            if tag in _FROM_CONTAINER:
                return _FROM_CONTAINER[tag]([self.decode(item, depth + 1) for item in _array(payload)])
        except Malformed:
            raise
        except (ArithmeticError, TypeError, ValueError) as error:  # an unhashable key, a date of month 13
            raise Malformed(f"no {tag}: {error}") from None
        return self._resolve(tag, payload, depth)


def _text(payload: Json) -> str:
    if type(payload) is not str:
        raise Malformed("text was expected")
    return payload


def _array(payload: Json) -> list[Json]:
    if type(payload) is not list:
        raise Malformed("an array was expected")
    return payload


def _integers(payload: Json, count: int) -> list[int]:
    if len(_array(payload)) != count or any(type(item) is not int for item in payload):
        raise Malformed(f"{count} integers were expected")
    return list(payload)


def _numbers(payload: Json, count: int) -> list[float]:
    if len(_array(payload)) != count or any(type(item) not in (int, float) for item in payload):
        raise Malformed(f"{count} numbers were expected")
    return list(payload)


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    if any(type(item) is not list or len(item) != 2 for item in items):
        raise Malformed("pairs were expected")
    return [(key, value) for key, value in items]


def _from_iso(kind: Any, payload: Json) -> Any:
    value = kind.fromisoformat(_text(payload))
    if type(value) is not kind:
        raise Malformed(f"no {kind.__name__}")
    return value
