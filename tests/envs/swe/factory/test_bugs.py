"""Bugs are edits: each leaves Python that differs from what it was, and taking it back heals it."""

from __future__ import annotations

import ast
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.envs.swe.factory.conftest import SHAPES, WORDS
from turnwise.envs.swe.factory.bugs.bug import BugKind, apply
from turnwise.envs.swe.factory.bugs.find import both, module_bugs, ordered_bugs
from turnwise.envs.swe.patch import apply_patch, make_patch

OPERATORS = (
    "+",
    "-",
    "*",
    "//",
    "%",
    "&",
    "<<",
    "==",
    "!=",
    "<",
    "<=",
    "is",
    "is not",
    "in",
    "not in",
    "and",
    "or",
)
names = st.sampled_from(["a", "bé", "self", "limit"])
atoms = st.one_of(
    names, st.integers(0, 9).map(str), st.sampled_from(["True", "'ü'", "a.b", "f(a, bé)", "f'{a+1}'"])
)


def _joined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(OPERATORS)
    return st.one_of(
        st.builds("({} {} {})".format, inner, operators, inner),
        st.builds("(not {})".format, inner),
        st.builds("a[{}:{}]".format, inner, inner),
        st.builds("range({},\n {})".format, inner, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
    )


expressions = st.recursive(atoms, _joined, max_leaves=5)


@st.composite
def blocks(draw: st.DrawFn, depth: int = 0) -> list[str]:
    """A block of statements, by lines."""
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(
            st.sampled_from(
                ["assign", "call", "return", "if", "while", "short", "with"][: 7 if depth < 2 else 3]
            )
        )
        value = draw(expressions)
        inner = [f"    {line}" for line in draw(blocks(depth + 1))] if kind in ("if", "while", "with") else []
        match kind:
            case "assign":
                lines += [f"a += {value}  # é"]
            case "call":
                lines += [f"f({value}, a)"]
            case "return":
                lines += [f"return {value}, a"]
            case "short":
                lines += [f"if {value}: pass"]
            case "with":
                lines += ["try:", *inner, "finally:", "    pass"]
            case _:
                lines += [f"{kind} {value}:", *inner]
                if draw(st.booleans()):
                    lines += [f"elif {value}:", "    a = 1"] if kind == "if" else []
                if draw(st.booleans()):
                    lines += ["else:", *[f"    {line}" for line in draw(blocks(depth + 1))]]
    return lines


@st.composite
def modules(draw: st.DrawFn) -> str:
    body = "\n".join(f"        {line}" for line in "\n".join(draw(blocks())).splitlines())
    return f'class C:\n    @property\n    def do(self, a, bé=1):\n        """What it does."""\n{body}\n'


@given(modules())
def test_every_bug_parses_differs_and_is_healed_by_its_patch(text: str) -> None:
    data = text.encode()
    for bug in ordered_bugs({"m.py": data}, Random(0)):
        broken = apply(data, bug.edits)
        assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(data)), (bug, broken.decode())
        patch = make_patch({"m.py": broken}, {"m.py": data})
        assert apply_patch(patch, {"m.py": broken}) == {"m.py": data}
        assert bug.functions == ("C.do",)


def test_all_kinds_are_there_and_come_in_turns() -> None:
    found = list(ordered_bugs({"shapes.py": SHAPES.encode(), "words.py": WORDS.encode()}, Random(0)))
    kinds = {bug.kind for bug in found}
    assert kinds == set(BugKind) - {BugKind.TWO_PLACES}
    assert {bug.kind for bug in found[: len(kinds)]} == kinds
    assert len({bug.id for bug in found}) == len(found)


def test_the_order_is_that_of_the_seed() -> None:
    files = {"shapes.py": SHAPES.encode()}
    first = [bug.id for bug in ordered_bugs(files, Random(1))]
    assert first == [bug.id for bug in ordered_bugs(files, Random(1))]
    assert first != [bug.id for bug in ordered_bugs(files, Random(2))]


def test_a_body_to_be_rewritten_keeps_its_docstring() -> None:
    bug = next(bug for bug in module_bugs("s.py", SHAPES.encode()) if bug.kind is BugKind.REWRITE)
    broken = apply(SHAPES.encode(), bug.edits).decode()
    assert f'"""Shapes."""\n\nUNIT = 1\n\n\ndef {bug.functions[0]}' in broken or bug.functions[0] != "area"
    assert "    raise NotImplementedError\n" in broken


def test_two_places_are_two_functions_of_one_module() -> None:
    bugs = list(module_bugs("s.py", SHAPES.encode()))
    pairs = [pair for one in bugs for two in bugs if (pair := both(one, two)) is not None]
    assert pairs
    for pair in pairs[:50]:
        assert len(set(pair.functions)) == 2
        assert ast.parse(apply(SHAPES.encode(), pair.edits))
    other = next(iter(module_bugs("w.py", WORDS.encode())))
    assert both(bugs[0], other) is None
