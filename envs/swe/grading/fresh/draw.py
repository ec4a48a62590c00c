"""Fresh inputs: one of those that were seen, with parts of others, and something changed.

A change keeps the type of what it changes and stays near it: a number of the same sign and size, a text of
the same letters, a list of a length like the other's. So most of what is drawn is what the function is for.
"""

from __future__ import annotations

import datetime
import decimal
import fractions
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from turnwise.envs.swe.grading.fresh.values import Input, read, written

TRIES = 20
"""For an input that is none of those seen."""


def draws(seen: Sequence[str], rng: Random) -> Iterator[str]:
    """Inputs without end that are not among those seen; ends where there are hardly any."""
    known = set(seen)
    while True:
        for _ in range(TRIES):
            text = written(_drawn(seen, rng))
            if text is not None and text not in known:
                break
        else:
            return
        yield text


def _drawn(seen: Sequence[str], rng: Random) -> Input:
    args, kwargs = read(rng.choice(seen))
    if rng.random() < 0.5:
        _cross(args, kwargs, read(rng.choice(seen)), rng)
    places: list[tuple[Any, Any]] = [(args, place) for place in range(len(args))]
    places += [(kwargs, name) for name in kwargs]
    for holder, place in rng.sample(places, min(len(places), rng.choice((1, 1, 2)))):
        holder[place] = changed(holder[place], rng)
    return args, kwargs


def _cross(args: list[Any], kwargs: dict[str, Any], other: Input, rng: Random) -> None:
    """Take arguments of the same types out of another input."""
    for place, (mine, theirs) in enumerate(zip(args, other[0], strict=False)):
        if type(mine) is type(theirs) and rng.random() < 0.5:
            args[place] = theirs
    for name, theirs in other[1].items():
        if name in kwargs and type(kwargs[name]) is type(theirs) and rng.random() < 0.5:
            kwargs[name] = theirs


def changed(value: Any, rng: Random) -> Any:
    """Another value of the same type, near a value; the value itself where none is known."""
    change = _CHANGES.get(type(value))
    return value if change is None else change(value, rng)


def _integer(value: int, rng: Random) -> int:
    near = abs(value) + rng.choice((-3, -2, -1, 1, 2, 3))
    size = rng.choice((near, rng.randint(0, 2 * abs(value) + 3)))
    return abs(size) if value >= 0 else -abs(size)


def _number(value: float, rng: Random) -> float:
    if value != value or value in (float("inf"), float("-inf")):
        return value
    return rng.choice((value * rng.uniform(0.5, 2), round(value * rng.uniform(0.5, 2), 2), value + 1))


def _sequence(value: Any, rng: Random) -> Any:
    """One item gone, twice, elsewhere, or another; for texts, too."""
    if not value:
        return value
    first, second = sorted((rng.randrange(len(value)), rng.randrange(len(value) + 1)))
    match rng.randrange(6):
        case 0:
            return value[:first] + value[first + 1 :]
        case 1:
            return value[: first + 1] + value[first:]
        case 2:
            return value[:first] + value[second:] + value[first:second]
        case 3:
            return value[first:second] or value
        case 4:
            return value + value[first:second]
    return _with_another(value, first, rng)


def _with_another(value: Any, place: int, rng: Random) -> Any:
    before, one, after = value[:place], value[place : place + 1], value[place + 1 :]
    if isinstance(value, str):
        other = rng.choice((one.swapcase(), rng.choice(value), rng.choice("abcxyzAZ019 -_.")))
        return before + other + after
    if isinstance(value, bytes):
        return before + bytes([rng.choice((rng.choice(value), rng.randrange(32, 127)))]) + after
    return before + type(value)([changed(one[0], rng)]) + after


def _set(value: Any, rng: Random) -> Any:
    items = sorted(value, key=repr)
    return type(value)(_sequence(items, rng))


def _dict(value: Any, rng: Random) -> Any:
    items = list(value.items())
    if not items:
        return value
    place = rng.randrange(len(items))
    name, item = items[place]
    match rng.randrange(4):
        case 0:
            del items[place]
        case 1:
            items[place] = (changed(name, rng), item)
        case _:
            items[place] = (name, changed(item, rng))
    return type(value)(items)


def _range(value: range, rng: Random) -> range:
    step = value.step
    return range(value.start + rng.choice((0, 0, 1)), value.stop + rng.randint(-2, 3) * step, step)


def _moment(value: Any, rng: Random) -> Any:
    try:
        return value + datetime.timedelta(days=rng.randint(-40, 40), seconds=rng.randint(0, 86_399))
    except OverflowError:
        return value


def _span(value: datetime.timedelta, rng: Random) -> datetime.timedelta:
    return value * rng.uniform(0.3, 3)


_CHANGES: dict[type, Callable[[Any, Random], Any]] = {
    bool: lambda value, rng: not value,
    int: _integer,
    float: _number,
    decimal.Decimal: lambda value, rng: value + rng.choice((-1, 1, decimal.Decimal("0.1"))),
    fractions.Fraction: lambda value, rng: value + fractions.Fraction(rng.choice((-1, 1)), rng.randint(1, 4)),
    str: _sequence,
    bytes: _sequence,
    list: _sequence,
    tuple: _sequence,
    set: _set,
    frozenset: _set,
    dict: _dict,
    range: _range,
    datetime.date: _moment,
    datetime.datetime: _moment,
    datetime.timedelta: _span,
}
