"""Decoys: copies of a test, of the same name and form, with one expectation changed.

Code that makes every assertion hold, whatever it says, passes them too; they must fail. An altered
constant is drawn from what other tests of the file expect, where there is something of its type, so that
an answer picked from a list of plausible ones is picked here too.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial

OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn,
    ast.NotIn: ast.In, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt,
}  # fmt: skip


def decoys(source: str, test: str, rng: random.Random, most: int) -> list[str]:
    """Up to ``most`` changed copies of a file, each with another expectation of one of its tests changed.

    ``test`` is the name below the file in the test's id, as in ``TestSums::test_small[3]``.
    """
    path = test.partition("[")[0].split("::")
    plausible = [node.value for node in _constants(ast.parse(source))]
    found = []
    count = len(_changes_of(ast.parse(source), path, plausible, rng))
    for number in rng.sample(range(count), min(most, count)):
        tree = ast.parse(source)
        _changes_of(tree, path, plausible, rng)[number]()
        found.append(ast.unparse(tree))
    return found


def _changes_of(
    tree: ast.AST, path: list[str], plausible: Sequence[object], rng: random.Random
) -> list[Callable[[], None]]:
    """The changes of the test at a path of names; none where it is not written out there."""
    for name in path:
        inner = [node for node in ast.iter_child_nodes(tree) if getattr(node, "name", None) == name]
        if not inner:
            return []
        tree = inner[0]
    return list(_changes(tree, plausible, rng))


def _changes(test: ast.AST, plausible: Sequence[object], rng: random.Random) -> Iterator[Callable[[], None]]:
    """What could be changed in a test, in an order that depends on the test alone."""
    for node in ast.walk(test):
        if isinstance(node, ast.Assert):
            yield from _of_assertion(node, plausible, rng)
        elif isinstance(node, ast.Call) and _is_raises(node.func) and node.args:
            yield partial(node.args.__setitem__, 0, ast.Name("ZeroDivisionError", ast.Load()))


def _of_assertion(
    node: ast.Assert, plausible: Sequence[object], rng: random.Random
) -> Iterator[Callable[[], None]]:
    test = node.test
    if isinstance(test, ast.Compare):
        for constant in (found for side in test.comparators for found in _constants(side)):
            yield partial(setattr, constant, "value", _another(constant.value, plausible, rng))
        yield partial(test.ops.__setitem__, 0, OPPOSITE[type(test.ops[0])]())
    elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield partial(setattr, node, "test", test.operand)
    else:
        yield partial(setattr, node, "test", ast.UnaryOp(ast.Not(), test))


def _constants(tree: ast.AST) -> list[ast.Constant]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value is not Ellipsis]


def _is_raises(function: ast.expr) -> bool:
    return getattr(function, "attr", getattr(function, "id", "")) == "raises"


def _another(value: object, plausible: Sequence[object], rng: random.Random) -> object:
    """A value of the same type that is another."""
    others = [other for other in plausible if type(other) is type(value) and other != value]
    match value:
        case bool():
            return not value
        case None:
            return 0
        case int() | float() | complex():
            others += [value + 1, value - 1]
        case str():
            others += [value + "x"]
        case bytes():
            others += [value + b"x"]
    return rng.choice(others)
