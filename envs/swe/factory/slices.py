"""The statement of a test that failed, and what before it it depends on."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

MOST_LINES = 14
"""Lines that are shown of a test."""
LONGEST = 6
"""Lines of one statement that is shown."""
_Function = (ast.FunctionDef, ast.AsyncFunctionDef)
_Level: TypeAlias = tuple[list[ast.stmt], ast.stmt]
"""A statement around the failing one, or that itself, after those before it in its block."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A piece of a test."""

    failing: ast.stmt
    before: str
    """What the failing statement depends on."""
    code: str
    """The same, and the statement."""
    names: frozenset[str]
    """That are used in all of it."""


def slice_at(data: bytes, function: str, line: int) -> Slice | None:
    """The piece of a test function that leads to a line; None where the line is not in it, or the statement
    there is too long to be shown."""
    tree = ast.parse(data)
    node = next((n for n in ast.walk(tree) if isinstance(n, _Function) and _holds(n, line)), None)
    if node is None or node.name != function:
        return None
    levels = list(_levels(node.body, line))
    if not levels:
        return None
    lines, failing = data.decode().splitlines(), levels[-1][1]
    kept = _needed(levels)
    shown = [*kept, failing]
    if any(len(_lines(node, lines)) > LONGEST for node in shown):
        kept, shown = [], [failing]
    own = "\n".join(_lines(failing, lines))
    code = _text(shown, levels, lines)
    if len(own.splitlines()) > LONGEST:
        return None
    if len(code.splitlines()) > MOST_LINES:
        kept, code = [], own
    names = frozenset(name for node in (*kept, failing) for name in _loaded(node))
    return Slice(failing, _text(kept, levels, lines), code, names)


def _holds(node: ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def _levels(block: Sequence[ast.stmt], line: int) -> Iterator[_Level]:
    for place, node in enumerate(block):
        if _holds(node, line):
            yield list(block[:place]), node
            for name in ("body", "orelse", "finalbody"):
                yield from _levels(getattr(node, name, ()), line)
            for handler in getattr(node, "handlers", ()):
                yield from _levels(handler.body, line)


def _needed(levels: Sequence[_Level]) -> list[ast.stmt]:
    """The statements and heads that make what the failing one uses, in their order."""
    made = {name for before, node in levels for each in (*before, node) for name in _stored(each)}
    needed, kept = _loaded(levels[-1][1]), list[ast.stmt]()
    for place in reversed(range(len(levels))):
        before, around = levels[place]
        if place < len(levels) - 1 and isinstance(around, ast.For | ast.With):
            heads = [around.target, around.iter] if isinstance(around, ast.For) else around.items
            if any(_stored(head) & needed for head in heads):
                kept.append(around)
                needed |= {name for head in heads for name in _loaded(head)}
        for node in reversed(before):
            uses = isinstance(node, ast.Expr | ast.Assign | ast.AugAssign | ast.Delete) and not _asserts(node)
            if _stored(node) & needed or (uses and _loaded(node) & needed & made):
                kept.append(node)
                if isinstance(node, ast.Assign):  # what was before it no longer matters
                    needed -= _stored(node)
                needed |= _loaded(node)
    return [node for node in reversed(kept) if not isinstance(node, ast.Import | ast.ImportFrom)]


def _asserts(node: ast.stmt) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and "assert" in call.func.attr


def _stored(node: ast.AST) -> set[str]:
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names | ({node.name} if isinstance(node, (*_Function, ast.ClassDef)) else set())


def _loaded(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _lines(node: ast.stmt, lines: list[str], *, head: bool = False) -> list[str]:
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
    last = node.body[0].lineno - 1 if head and isinstance(node, ast.For | ast.With) else node.end_lineno
    return textwrap.dedent("\n".join(lines[first - 1 : last])).splitlines()


def _text(nodes: Sequence[ast.stmt], levels: Sequence[_Level], lines: list[str]) -> str:
    """The statements below each other, with what is in a loop or block that is shown moved in."""
    around, depth, shown = [node for _, node in levels[:-1]], 0, list[str]()
    for node in nodes:
        head = node in around
        shown += [" " * 4 * depth + line for line in _lines(node, lines, head=head)]
        depth += head
    return "\n".join(shown)
