"""Cutting tests out of test files, so that what is left is what it was, less those tests.

A test is cut by the name of its function wherever the tests define one of that name: in its file, and in
the class or helper that it may be inherited from.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from turnwise.envs.swe.factory.layout import is_of_tests
from turnwise.envs.swe.task import Tree

_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def function_name(test: str) -> str:
    """``test_b`` of ``tests/test_a.py::C::test_b[1]``."""
    return test.partition("[")[0].split("::")[-1]


def without(files: Tree, tests: Iterable[str]) -> Tree:
    """The test files that change when tests are cut, as they are then.

    A file in which nothing could be cut though a test of it is to go is not among them.
    """
    names = {function_name(test) for test in tests}
    changed = {}
    for path, data in files.items():
        if path.endswith(".py") and is_of_tests(path) and any(name.encode() in data for name in names):
            cut = _cut(data, names)
            if cut != data:
                changed[path] = cut
    return changed


def _cut(data: bytes, names: set[str]) -> bytes:
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError):
        return data
    lines = data.splitlines(keepends=True)
    for first, last, alone in _outermost(sorted(_places(tree, names))):
        indent = lines[first - 1][: len(lines[first - 1]) - len(lines[first - 1].lstrip())]
        lines[first - 1 : last] = [indent + b"pass\n"] if alone else []
    return b"".join(lines)


def _outermost(places: list[tuple[int, int, bool]]) -> list[tuple[int, int, bool]]:
    """Those that are in no other, the last first."""
    found: list[tuple[int, int, bool]] = []
    for place in places:
        if not found or place[0] > found[-1][1]:
            found.append(place)
    return found[::-1]


def _places(tree: ast.AST, names: set[str]) -> Iterator[tuple[int, int, bool]]:
    """First and last line of each function to go, and whether its block would be empty without it."""
    for node in ast.walk(tree):
        for block in (getattr(node, "body", None), getattr(node, "orelse", None)):
            if not isinstance(block, list):
                continue
            gone = [child for child in block if isinstance(child, _Function) and child.name in names]
            for place, child in enumerate(gone):
                first = min([child.lineno, *(each.lineno for each in child.decorator_list)])
                assert child.end_lineno is not None
                yield first, child.end_lineno, len(gone) == len(block) and place == 0
