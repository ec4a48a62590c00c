"""Lint of hidden tests: forms that let wrong code pass a sound grader.

* ``order``: both sides of a comparison come from the package. The expectation then is the package's to
  choose; ``expected(lambda: …)`` builds it where nothing of the test has been seen.
* ``polarity``: a question with two answers (equal or not, true or not, raises or not) of which the tests
  know only one. Code that always answers so passes.
* ``oracle``: a seeded test computes its expectation after it has called the package.
* ``seeded``: no test has fresh inputs; a table of answers passes.
* ``skip``: a test that may be skipped or expected to fail.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from turnwise.envs.swe.grading.suite import Suite
from turnwise.envs.types import Model

Rule = Literal["order", "polarity", "oracle", "seeded", "skip"]
FRESH = "fresh_rng"


class Finding(Model):
    """One place that the lint objects to."""

    rule: Rule
    file: str
    line: int
    test: str
    message: str


@dataclass(slots=True)
class _Questions:
    """The answers that tests ask for, by question, and where one was asked first."""

    answers: dict[str, set[bool]] = field(default_factory=lambda: defaultdict(set))
    places: dict[str, tuple[str, int, str]] = field(default_factory=dict)

    def ask(self, question: str, answer: bool, place: tuple[str, int, str]) -> None:
        self.answers[question].add(answer)
        self.places.setdefault(question, place)


def lint(suite: Suite) -> tuple[Finding, ...]:
    """All findings, in the order of files and lines. Raises ``SyntaxError`` for a file that is not Python."""
    findings: list[Finding] = []
    questions = _Questions()
    seeded = False
    for file, data in sorted(suite.files.items()):
        if not file.endswith(".py"):
            continue
        tree = ast.parse(data, file)
        names = _package_names(tree, suite.rules.packages)
        for test in _tests(tree):
            seeded |= FRESH in _parameters(test)
            findings += _Reader(file, test, names, questions).findings()
    for question, answers in questions.answers.items():
        if len(answers) == 1 and not (question.startswith("whether") and answers == {False}):
            file, line, name = questions.places[question]
            only = "yes" if True in answers else "no"
            message = f"{question}: the tests only know the answer {only}"
            findings.append(Finding(rule="polarity", file=file, line=line, test=name, message=message))
    if not seeded:
        message = f"no test asks for {FRESH}: all inputs are known once they are seen"
        findings.append(Finding(rule="seeded", file="", line=0, test="", message=message))
    return tuple(sorted(findings, key=lambda found: (found.file, found.line, found.rule)))


def _package_names(tree: ast.Module, packages: tuple[str, ...]) -> set[str]:
    """The names of a file that stand for something of the package."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias for alias in node.names if alias.name.partition(".")[0] in packages]
            names |= {alias.asname or alias.name.partition(".")[0] for alias in found}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in packages:
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def _tests(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            yield node


def _parameters(test: ast.FunctionDef) -> set[str]:
    return {argument.arg for argument in test.args.args}


class _Reader:
    """Reads one test, from top to bottom."""

    def __init__(self, file: str, test: ast.FunctionDef, names: set[str], questions: _Questions) -> None:
        self._file, self._test, self._questions = file, test, questions
        self._names = set(names)
        """Names that stand for something of the package, locals made with it included."""
        self._found: list[Finding] = []
        self._first_call: int | None = None
        self._late: set[str] = set()
        """Locals of a value computed after the package was called."""
        self._refused: set[int] = {
            id(node)
            for block in ast.walk(test)
            if isinstance(block, ast.With) and any(_is_raises(item.context_expr) for item in block.items)
            for node in ast.walk(block)
        }

    def findings(self) -> list[Finding]:
        for decorator in self._test.decorator_list:
            if any(word in ast.unparse(decorator) for word in ("skip", "xfail")):
                self._object("skip", decorator, f"{ast.unparse(decorator)}: a test that counts has to run")
        for statement in self._test.body:
            for node in _in_order(statement):
                self._read(node)
        return self._found

    def _read(self, node: ast.AST) -> None:
        match node:
            case ast.Call(func=function) if self._of_package(function):
                self._first_call = self._first_call or node.lineno
                question = f"whether {ast.unparse(function).rpartition('.')[2]} raises"
                self._ask(question, id(node) in self._refused, node)
            case ast.Assign(value=value, targets=targets):
                named = {
                    name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)
                }
                if self._of_package(value):
                    self._names |= named
                elif self._first_call is not None and _calls(value):
                    self._late |= named
            case ast.Assert(test=test):
                self._assertion(test, True)

    def _assertion(self, test: ast.expr, answer: bool) -> None:
        match test:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self._assertion(operand, not answer)
            case ast.BoolOp(values=values):
                for value in values:
                    self._assertion(value, answer)
            case ast.Compare(
                left=left, ops=[ast.Is() | ast.Eq()], comparators=[ast.Constant(value=bool(value))]
            ):
                self._assertion(left, answer == value)
            case ast.Compare(left=left, ops=[ast.Eq() | ast.NotEq() as operator], comparators=[right]):
                self._comparison(left, right, answer == isinstance(operator, ast.Eq))
            case ast.Call(func=ast.Name(id="isinstance"), args=[_, kind]) if self._of_package(kind):
                self._ask(f"isinstance of {ast.unparse(kind)}", answer, test)
            case ast.Call(func=function) if self._of_package(function):
                self._ask(f"the truth of {ast.unparse(function).rpartition('.')[2]}", answer, test)

    def _comparison(self, left: ast.expr, right: ast.expr, equal: bool) -> None:
        mine, theirs = self._of_package(left), self._of_package(right)
        if mine and theirs:
            self._object("order", left, "both sides come from the package; use expected(lambda: …) for one")
        built = [what for side in (left, right) if (what := _expected(side)) is not None]
        if built or (mine and theirs):
            names = [node.id for node in ast.walk((built or [left])[0]) if isinstance(node, ast.Name)]
            known = [name for name in names if name in self._names]
            self._ask(f"equality of {known[0] if known else 'objects'}", equal, left)
        if FRESH in _parameters(self._test):
            for side in (left, right):
                late = {node.id for node in ast.walk(side) if isinstance(node, ast.Name)} & self._late
                if not self._of_package(side) and _expected(side) is None and (late or _calls(side)):
                    self._object("oracle", side, "the expectation is computed after the package was called")

    def _of_package(self, expression: ast.expr) -> bool:
        """Whether a value is made by the package, ``expected(…)`` apart."""
        inside = {id(node) for call in ast.walk(expression) if _expected(call) for node in ast.walk(call)}
        return any(
            isinstance(node, ast.Name) and node.id in self._names and id(node) not in inside
            for node in ast.walk(expression)
        )

    def _ask(self, question: str, answer: bool, node: ast.expr) -> None:
        self._questions.ask(question, answer, (self._file, node.lineno, self._test.name))

    def _object(self, rule: Rule, node: ast.expr, message: str) -> None:
        found = Finding(rule=rule, file=self._file, line=node.lineno, test=self._test.name, message=message)
        self._found.append(found)


def _in_order(statement: ast.AST) -> Iterator[ast.AST]:
    """Expressions before the statement that holds them, as they are evaluated."""
    for child in ast.iter_child_nodes(statement):
        yield from _in_order(child)
    yield statement


def _expected(node: ast.AST) -> ast.expr | None:
    """The function given to ``expected``, where this is a call of it."""
    match node:
        case ast.Call(func=ast.Name(id="expected"), args=[build]):
            return build
    return None


def _calls(expression: ast.expr) -> bool:
    return any(isinstance(node, ast.Call) for node in ast.walk(expression))


def _is_raises(expression: ast.expr) -> bool:
    function = expression.func if isinstance(expression, ast.Call) else expression
    return getattr(function, "attr", getattr(function, "id", "")) == "raises"
