"""Assertions and errors as sentences: what should be, and what is."""

from __future__ import annotations

import ast
from collections.abc import Sequence

LONGEST = 300
"""Characters of an error that are told."""
COMPARED: dict[type[ast.cmpop], str] = {
    ast.Eq: "should equal", ast.NotEq: "should differ from", ast.Is: "should be", ast.IsNot: "should not be",
    ast.Lt: "should be less than", ast.LtE: "should be at most", ast.Gt: "should be greater than",
    ast.GtE: "should be at least", ast.In: "should be in", ast.NotIn: "should not be in",
}  # fmt: skip
METHODS: dict[str, tuple[int, str]] = {
    "assertEqual": (2, "`{0}` should equal `{1}`."), "assertEquals": (2, "`{0}` should equal `{1}`."),
    "assertNotEqual": (2, "`{0}` should differ from `{1}`."), "assertIs": (2, "`{0}` should be `{1}`."),
    "assertIsNot": (2, "`{0}` should not be `{1}`."), "assertIn": (2, "`{0}` should be in `{1}`."),
    "assertNotIn": (2, "`{0}` should not be in `{1}`."), "assertTrue": (1, "`{0}` should be true."),
    "assertFalse": (1, "`{0}` should be false."), "assertIsNone": (1, "`{0}` should be `None`."),
    "assertIsNotNone": (1, "`{0}` should not be `None`."),
    "assertLess": (2, "`{0}` should be less than `{1}`."),
    "assertGreater": (2, "`{0}` should be greater than `{1}`."),
    "assertAlmostEqual": (2, "`{0}` should be close to `{1}`."),
}  # fmt: skip
"""How many arguments count, and the sentence, for methods of unittest."""
RAISES = ("raises", "assertRaises", "assertRaisesRegex")


def expectation(node: ast.stmt) -> str | None:
    """What a statement of a test says that should be; None where it says nothing but that it goes through."""
    match node:
        case ast.Assert(test=test):
            return _asserted(test)
        case ast.With(items=[ast.withitem(context_expr=ast.Call() as call)]) if _name(call) in RAISES:
            body = "; ".join(ast.unparse(each) for each in node.body)
            return f"`{body}` should raise `{ast.unparse(call.args[0])}`." if call.args else None
        case ast.Expr(value=ast.Call() as call):
            return _called(call)
    return None


def _asserted(test: ast.expr) -> str:
    match test:
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            return f"`{ast.unparse(left)}` {COMPARED[type(operator)]} `{ast.unparse(right)}`."
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return f"`{ast.unparse(operand)}` should be false."
    return f"`{ast.unparse(test)}` should be true."


def _called(call: ast.Call) -> str | None:
    name, texts = _name(call), [ast.unparse(each) for each in call.args]
    if name in RAISES and len(texts) > 1:
        function, rest = texts[1], [*texts[2:], *map(ast.unparse, call.keywords)]
        return f"`{function}({', '.join(rest)})` should raise `{texts[0]}`."
    if name in METHODS and len(texts) >= METHODS[name][0]:
        return METHODS[name][1].format(*texts)
    return None


def _name(call: ast.Call) -> str:
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def outcome(error: Sequence[str]) -> str:
    """What came instead, by the lines of pytest's error."""
    first = next((line.strip() for line in error if line.strip()), "")
    first = first.removeprefix("AssertionError: ")
    if "DID NOT RAISE" in first or first.endswith("not raised"):
        return "Nothing is raised."
    shown = first if len(first) <= LONGEST else f"{first[:LONGEST]}…"
    shown = shown.replace("`", "'")
    if first.startswith("assert "):
        return f"What comes is `{shown.removeprefix('assert ')}`."
    kind = first.split(":")[0]
    if kind.replace(".", "").isidentifier() and kind != "AssertionError":
        return f"Instead it ends in `{shown}`."
    return f"What comes is `{shown}`." if shown else "It does not hold."
