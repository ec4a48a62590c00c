"""Values between judge and worker: they arrive as they were, and nothing else arrives."""

from __future__ import annotations

import ast
import collections
import datetime
import decimal
import enum
import fractions
import json
import math
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.envs.swe.grading import bootstrap
from turnwise.envs.swe.grading.codec import CONTAINERS, PLAIN, Codec, Malformed

KNOWN = {type(None), bool, int, float, str, list, *PLAIN, *CONTAINERS}


def refuse(*_: object) -> NoReturn:
    raise Malformed("no plain value")


codec = Codec(refuse, refuse)

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.datetimes()
    | st.dates()
    | st.timedeltas()
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(leaves, inner, max_size=4)
        | st.frozensets(leaves, max_size=4)
    ),
    max_leaves=12,
)
json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*(tag for tag, _, _ in (*PLAIN.values(), *CONTAINERS.values())), "int"])
            | st.text(max_size=4),
            inner,
            max_size=2,
        )
    ),
    max_leaves=10,
)


def kinds(value: Any) -> set[type]:
    inside = (
        value.items() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    )
    return {type(value)}.union(*(kinds(item) for item in inside))


@given(values)
def test_values_arrive_as_they_were(value: Any) -> None:
    arrived = codec.decode(json.loads(json.dumps(codec.encode(value))))
    assert arrived == value
    assert kinds(arrived) == kinds(value)


@pytest.mark.parametrize(
    "value",
    [
        1 << 70_000,
        -0.0,
        math.inf,
        "\ud800",
        collections.Counter("abca"),
        collections.deque([1]),
        range(3, 9, 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_odd_values_arrive_too(value: Any) -> None:
    arrived = codec.decode(json.loads(json.dumps(codec.encode(value))))
    assert type(arrived) is type(value)
    assert arrived == value
    assert not isinstance(value, float) or math.copysign(1, arrived) == math.copysign(1, value)


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Colour(enum.IntEnum):
    RED = 1


class Pair(NamedTuple):
    x: int


@pytest.mark.parametrize("value", [Liar(3), Colour.RED, Pair(1), object(), print])
def test_subclasses_and_objects_are_no_plain_values(value: Any) -> None:
    with pytest.raises(Malformed):
        codec.encode([value])


@given(json_values)
def test_whatever_arrives_is_an_exact_builtin_or_refused(data: Any) -> None:
    try:
        value = codec.decode(data)
    except Malformed:
        return
    assert kinds(value) <= KNOWN


@pytest.mark.parametrize(
    "data",
    [
        {"set": [[1]]},
        {"dict": [[1]]},
        {"Fraction": [1, 0]},
        {"datetime": "2024-13-01"},
        {"bytes": "?"},
        {"complex": [True, 1]},
        {"object": {"id": 0}},
        {"range": [0, 1, 0]},
        {"a": 1, "b": 2},
    ],
)
def test_what_is_no_value_is_refused(data: Any) -> None:
    with pytest.raises(Malformed):
        codec.decode(data)


def test_times_with_a_zone_are_no_plain_values() -> None:
    with pytest.raises(Malformed):
        codec.encode(datetime.datetime.now(datetime.UTC))
    assert (
        codec.decode(codec.encode(decimal.Decimal("1.50"))).as_tuple() == decimal.Decimal("1.50").as_tuple()
    )
    assert codec.decode(codec.encode(fractions.Fraction(1, 3))) == fractions.Fraction(1, 3)


@pytest.mark.parametrize("name", ["bootstrap.py", "codec.py", "worker.py"])
def test_what_a_repositorys_own_interpreter_runs_is_written_for_old_ones(name: str) -> None:
    ast.parse((Path(bootstrap.__file__).parent / name).read_text(), feature_version=(3, 8))
