"""Forms of tests that the lint objects to, decoys, and what it leaves alone."""

from __future__ import annotations

import ast
import random

import pytest

from turnwise.envs.swe.cheats.sample import sample
from turnwise.envs.swe.grading import Finding, Rules, Suite, lint
from turnwise.envs.swe.grading.decoys import decoys

HEAD = "import pytest\nfrom pkg import Vec, Error, add, is_even, parse\n\n"


def found(test: str, *rules: str) -> list[Finding]:
    suite = Suite(
        rules=Rules(sources=("pkg",)),
        files={"test_a.py": (HEAD + test).encode()},
        fail_to_pass=("test_a.py::test_a",),
    )
    return [finding for finding in lint(suite) if finding.rule in rules]


@pytest.mark.parametrize(
    ("rule", "test"),
    [
        ("order", "def test_a():\n    assert Vec(4, 6) == add(Vec(1, 2), Vec(3, 4))"),
        ("order", "def test_a():\n    want = Vec(4, 6)\n    got = add(1, 2)\n    assert got == want"),
        ("order", "def test_a():\n    assert add(1, 2) == add(2, 1)"),
        ("polarity", "def test_a():\n    assert is_even(2)"),
        ("polarity", "def test_a():\n    assert not is_even(3)\n    assert is_even(1) is False"),
        ("polarity", "def test_a(expected):\n    assert add(1, 2) == expected(lambda: Vec(4, 6))"),
        ("polarity", "def test_a():\n    with pytest.raises(Error):\n        parse('x')"),
        ("polarity", "def test_a():\n    assert isinstance(parse('1'), Vec)"),
        ("oracle", "def test_a(fresh_rng):\n    n = fresh_rng.random()\n    assert add(n, 1) == sum([n, 1])"),
        (
            "oracle",
            "def test_a(fresh_rng):\n    n = 1\n    got = add(n)\n    want = abs(n)\n    assert got == want",
        ),
        ("seeded", "def test_a():\n    assert add(1, 2) == 3"),
        ("skip", "@pytest.mark.xfail\ndef test_a():\n    assert add(1, 2) == 3"),
        ("skip", "@pytest.mark.skipif(True, reason='')\ndef test_a():\n    assert add(1, 2) == 3"),
    ],
)
def test_it_objects(rule: str, test: str) -> None:
    assert {finding.rule for finding in found(test, rule)} == {rule}


@pytest.mark.parametrize(
    ("rule", "test"),
    [
        ("order", "def test_a(expected):\n    assert add(1, 2) == expected(lambda: Vec(4, 6))"),
        ("order", "def test_a():\n    total = add(1, 2)\n    assert (total.x, total.y) == (4, 6)"),
        ("polarity", "def test_a():\n    assert is_even(2)\n    assert not is_even(3)"),
        ("polarity", "def test_a():\n    assert is_even(2) is True\n    assert is_even(3) == False"),
        (
            "polarity",
            "def test_a(expected):\n    assert add(1, 2) == expected(lambda: Vec(4, 6))\n"
            "    assert add(1, 2) != expected(lambda: Vec(4, 7))",
        ),
        (
            "polarity",
            "def test_a():\n    with pytest.raises(Error):\n        parse('x')\n    assert parse('1') == 1",
        ),
        (
            "oracle",
            "def test_a(fresh_rng):\n    n = 1\n    want = abs(n)\n    got = add(n)\n    assert got == want",
        ),
        ("seeded", "def test_a(fresh_rng):\n    assert add(1, 2) == 3"),
        ("skip", "@pytest.mark.copyback\ndef test_a():\n    assert add(1, 2) == 3"),
    ],
)
def test_it_leaves_good_tests_alone(rule: str, test: str) -> None:
    assert found(test, rule) == []


def test_the_samples_suite_is_clean() -> None:
    assert lint(sample().suite) == ()


def test_a_decoy_has_one_expectation_changed() -> None:
    source = (
        "def test_a():\n    assert f(1) == 2\n\ndef test_b():\n    assert g(3) == 5\n    assert not h(4)\n"
    )
    made = decoys(source, "test_b", random.Random(0), 5)
    assert len(made) == len(set(made)) == 3
    for text in made:
        same, changed = (ast.unparse(node) for node in ast.parse(text).body)
        assert same == ast.unparse(ast.parse(source).body[0])
        assert changed != ast.unparse(ast.parse(source).body[1])
        assert "g(3)" in changed
        assert "h(4)" in changed


def test_an_altered_constant_is_drawn_from_what_others_expect() -> None:
    source = "def test_a():\n    assert f() == 'red'\n\ndef test_b():\n    assert f() == 'blue'\n"
    drawn = {text for seed in range(20) for text in decoys(source, "test_a", random.Random(seed), 1)}
    assert any("f() == 'blue'" in text.partition("test_b")[0] for text in drawn)


def test_a_test_in_a_class_with_parameters_has_decoys() -> None:
    source = (
        "class TestA:\n    def test_a(self, n):\n        with pytest.raises(ValueError):\n            f(n)\n"
    )
    (made,) = decoys(source, "TestA::test_a[3-x]", random.Random(0), 2)
    assert "raises(ZeroDivisionError)" in made
