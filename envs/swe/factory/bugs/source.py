"""A module's source and its syntax tree, by bytes: where nodes are, and what is between them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from turnwise.envs.swe.factory.bugs.bug import Edit

_AROUND = b" \t\n\\()"
Located = ast.expr | ast.stmt
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(slots=True)
class Source:
    """One module."""

    data: bytes
    tree: ast.Module = field(init=False)
    _starts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.data)
        self._starts = [0]
        for line in self.data.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def start(self, node: Located) -> int:
        """Where a node begins."""
        return self._starts[node.lineno - 1] + node.col_offset

    def end(self, node: Located) -> int:
        """Where a node ends."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: Located) -> bytes:
        """What a node says."""
        return self.data[self.start(node) : self.end(node)]

    def between(self, left: Located, right: Located, symbol: str, new: str) -> Edit | None:
        """Another operator in the place of the only one between two nodes; None where more is there."""
        first, last, wanted = self.end(left), self.start(right), symbol.encode()
        gap = self.data[first:last]
        if gap.strip(_AROUND) != wanted:
            return None
        at = first + gap.index(wanted)
        return Edit(at, at + len(wanted), new.encode())

    def lines(self, first: int, last: int) -> tuple[int, int]:
        """Where lines begin and end, counted from 1."""
        return self._starts[first - 1], self._starts[last]

    def stands_alone(self, node: ast.stmt) -> bool:
        """Whether nothing else but a comment is on the lines of a statement."""
        assert node.end_lineno is not None
        first, last = self.lines(node.lineno, node.end_lineno)
        before, after = self.data[first : self.start(node)], self.data[self.end(node) : last].strip()
        return not before.strip() and (not after or after.startswith(b"#"))

    def functions(self) -> Iterator[tuple[str, Function]]:
        """Functions and methods by name; what is defined within one is part of it."""
        yield from _functions(self.tree.body, "")


def _functions(body: list[ast.stmt], within: str) -> Iterator[tuple[str, Function]]:
    for node in body:
        if isinstance(node, Function):
            yield within + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{within}{node.name}.")
        elif isinstance(node, ast.If | ast.Try):
            yield from _functions([*node.body, *node.orelse], within)


def inner(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, but for those of f-strings, whose places are not known, and of annotations."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield child
                yield from inner(child)
