"""Bugs within an expression: operators, constants, arguments, variables."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from turnwise.envs.swe.factory.bugs.bug import BugKind, Edit
from turnwise.envs.swe.factory.bugs.source import Function, Source, inner

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"), ast.Mod: ("%", "//"), ast.Pow: ("**", "*"), ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"),
}  # fmt: skip
Found = tuple[BugKind, tuple[Edit, ...]]
COUNTING = (ast.Subscript, ast.Slice, ast.Compare, ast.BinOp, ast.AugAssign)
"""A number below one of these is a place or a bound."""


def expression_bugs(source: Source, function: Function) -> Iterator[Found]:
    """What can be put into the expressions of a function."""
    parameters = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
    swappable = [name for name in parameters if name not in ("self", "cls")]
    for statement in function.body:
        for node in (statement, *inner(statement)):
            match node:
                case ast.Compare():
                    yield from _comparisons(source, node)
                case ast.BinOp() | ast.AugAssign():
                    yield from _arithmetic(source, node)
                case ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                    yield from _boolean(source, node)
                case ast.If() | ast.While() | ast.IfExp():
                    yield from _negated(source, node.test)
                case ast.Call():
                    yield from _arguments(source, node)
                case ast.Name(ctx=ast.Load()) if node.id in swappable and len(swappable) > 1:
                    other = swappable[(swappable.index(node.id) + 1) % len(swappable)]
                    yield BugKind.VARIABLE, (_put(source, node, other.encode()),)
            yield from _constants(source, node)


def _put(source: Source, node: ast.expr, new: bytes) -> Edit:
    return Edit(source.start(node), source.end(node), new)


def _comparisons(source: Source, node: ast.Compare) -> Iterator[Found]:
    sides = [node.left, *node.comparators]
    for place, operator in enumerate(node.ops):
        edit = source.between(sides[place], sides[place + 1], *COMPARISONS[type(operator)])
        if edit is not None:
            yield BugKind.COMPARISON, (edit,)


def _arithmetic(source: Source, node: ast.BinOp | ast.AugAssign) -> Iterator[Found]:
    left, right = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
    formats = isinstance(left, ast.Constant) and isinstance(left.value, str)
    if formats or type(node.op) not in ARITHMETIC:
        return
    old, new = ARITHMETIC[type(node.op)]
    mark = "=" if isinstance(node, ast.AugAssign) else ""
    edit = source.between(left, right, old + mark, new + mark)
    if edit is not None:
        yield BugKind.ARITHMETIC, (edit,)


def _boolean(source: Source, node: ast.BoolOp | ast.UnaryOp) -> Iterator[Found]:
    if isinstance(node, ast.UnaryOp):
        yield BugKind.BOOLEAN, (Edit(source.start(node), source.start(node.operand), b""),)
        return
    words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
    pairs = zip(node.values, node.values[1:], strict=False)
    edits = [source.between(left, right, *words) for left, right in pairs]
    found = tuple(edit for edit in edits if edit is not None)
    if len(found) == len(edits):
        yield BugKind.BOOLEAN, found


def _negated(source: Source, test: ast.expr) -> Iterator[Found]:
    if isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.Subscript):
        yield BugKind.BOOLEAN, (_put(source, test, b"not " + source.text(test)),)


def _arguments(source: Source, node: ast.Call) -> Iterator[Found]:
    for left, right in zip(node.args, node.args[1:], strict=False):
        if isinstance(left, ast.Starred | ast.GeneratorExp) or isinstance(right, ast.Starred):
            continue
        one, two = source.text(left), source.text(right)
        if one != two:
            yield BugKind.ARGUMENTS, (_put(source, left, two), _put(source, right, one))


def _constants(source: Source, parent: ast.AST) -> Iterator[Found]:
    """Numbers one too large or too small, and truth values, right below a node."""
    ranged = isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id == "range"
    kind = BugKind.OFF_BY_ONE if ranged or isinstance(parent, COUNTING) else BugKind.CONSTANT
    for node in ast.iter_child_nodes(parent):
        match node:
            case ast.Constant(value=bool()):
                yield BugKind.CONSTANT, (_put(source, node, str(not node.value).encode()),)
            case ast.Constant(value=int(value)) if source.text(node).isdigit():
                for new in (value + 1, value - 1):
                    if new >= 0:
                        yield kind, (_put(source, node, str(new).encode()),)
