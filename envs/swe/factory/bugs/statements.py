"""Bugs of whole statements: branches and statements that are gone, results, bodies to be rewritten."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

from turnwise.envs.swe.factory.bugs.bug import BugKind, Edit
from turnwise.envs.swe.factory.bugs.expressions import Found
from turnwise.envs.swe.factory.bugs.source import Function, Source, inner

REWRITTEN = range(4, 41)
"""Lines of a body, without its docstring, that may have to be written anew."""


def statement_bugs(source: Source, function: Function) -> Iterator[Found]:
    """What can be put into the statements of a function."""
    stored = Counter(
        node.id for node in inner(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )
    for node in (function, *inner(function)):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield from _in_block(source, block, stored)
    yield from _rewrite(source, function)


def _in_block(source: Source, block: list[ast.stmt], stored: Counter[str]) -> Iterator[Found]:
    for node in block:
        match node:
            case ast.If():
                yield from _branches(source, node, alone=len(block) == 1)
            case ast.Return(value=ast.Tuple(elts=[first, second, *_])):
                one, two = source.text(first), source.text(second)
                if one != two:
                    there = Edit(source.start(second), source.end(second), one)
                    yield BugKind.RETURNED, (Edit(source.start(first), source.end(first), two), there)
            case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
                yield BugKind.RETURNED, (Edit(source.start(value), source.end(value), b"None"),)
        if _can_go(node, stored) and source.stands_alone(node):
            yield BugKind.STATEMENT, (_without(source, node, alone=len(block) == 1),)


def _can_go(node: ast.stmt, stored: Counter[str]) -> bool:
    """Whether a function makes sense without a statement: no name is missing then."""
    match node:
        case ast.Expr(value=ast.Constant()):
            return False
        case ast.Expr() | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break() | ast.Delete():
            return True
        case ast.Assign(targets=[ast.Name(id=name)]):
            return stored[name] > 1
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return True
    return False


def _without(source: Source, node: ast.stmt, *, alone: bool) -> Edit:
    if alone:
        return Edit(source.start(node), source.end(node), b"pass")
    assert node.end_lineno is not None
    return Edit(*source.lines(node.lineno, node.end_lineno), b"")


def _branches(source: Source, node: ast.If, *, alone: bool) -> Iterator[Found]:
    if not source.stands_alone(node):
        return
    if not node.orelse:
        if not source.text(node).startswith(b"elif"):
            yield BugKind.BRANCH, (_without(source, node, alone=alone),)
        elif (end := node.end_lineno) is not None:
            yield BugKind.BRANCH, (Edit(*source.lines(node.lineno, end), b""),)
        return
    last, first = node.body[-1].end_lineno, node.orelse[0].lineno
    assert last is not None
    if source.text(node).startswith(b"elif"):
        yield BugKind.BRANCH, (Edit(*source.lines(node.lineno, last), b""),)
    if isinstance(node.orelse[0], ast.If) and source.text(node.orelse[0]).startswith(b"elif"):
        return
    end = node.orelse[-1].end_lineno
    assert end is not None
    if first > last + 1:  # else has a line of its own
        yield BugKind.BRANCH, (Edit(*source.lines(last + 1, end), b""),)


def _rewrite(source: Source, function: Function) -> Iterator[Found]:
    """The body but for its docstring gives way to one that says that it is missing."""
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    if not body or not all(source.stands_alone(node) for node in (body[0], body[-1])):
        return
    first, last = body[0].lineno, body[-1].end_lineno
    assert last is not None
    if isinstance(body[0], Function | ast.ClassDef) and body[0].decorator_list:
        first = body[0].decorator_list[0].lineno
    if last - first + 1 in REWRITTEN:
        gone = Edit(*source.lines(first, last), b" " * body[0].col_offset + b"raise NotImplementedError\n")
        yield BugKind.REWRITE, (gone,)
