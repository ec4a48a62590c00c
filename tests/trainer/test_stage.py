"""Stages: what a declaration promises, and what happens when a function breaks it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from turnwise.envs.errors import UsageError
from turnwise.trainer.stage import StageError, credit, find_stage, stages
from turnwise.trainer.table import TurnTable

Lab = SimpleNamespace
pytestmark = pytest.mark.usefixtures("fresh_registry")


@pytest.fixture
def table(lab: Lab) -> TurnTable:
    return lab.table(lab.episode("a", "g", 3, 1.0), lab.episode("b", "g", 2, 0.5))


def test_a_stage_is_a_decorated_function(table: TurnTable) -> None:
    @credit("decay", scope="episode", needs=["reward"], provides=["step_reward"])
    def decay(t: TurnTable, gamma: float = 0.9) -> dict[str, Any]:
        """Early rewards count more."""
        return {"step_reward": t.reward * gamma**t.index}

    columns, _ = find_stage("decay").bind({"gamma": 0.5}).apply(table, {})
    assert columns["step_reward"].tolist() == [0, 0, 0.25, 0, 0.25]
    assert decay(table)["step_reward"][2] == 0.9**2
    assert find_stage("decay").summary == "Early rewards count more."


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"gama": 0.5}, "stage returns: unknown field 'gama'; did you mean 'gamma'? (allowed: gamma, of)"),
        ({"gamma": 2}, "stage returns: gamma = 2: Input should be less than or equal to 1 (allowed: 0 to 1)"),
    ],
)
def test_parameters_are_checked(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        find_stage("returns").bind(params)
    assert str(error.value) == message


def test_an_unknown_stage_is_told_its_neighbour() -> None:
    with pytest.raises(UsageError, match="unknown credit stage 'grop'; did you mean 'grpo'"):
        find_stage("grop")


def test_column_names_follow_parameters() -> None:
    node = find_stage("gae").bind({"of": "shaped_reward", "into": "advantage"})
    assert node.needs == ("shaped_reward", "value:shaped_reward", "next_value:shaped_reward")
    assert node.provides == ("advantage",)


def test_a_name_that_speaks_of_several_entries_is_several_columns() -> None:
    @credit("sums", scope="turn", needs=["{of}"], provides=["{sign}:{of}", "total"])
    def sums(t: TurnTable, of: dict[str, float], sign: tuple[str, ...] = ("plus", "minus")) -> Any: ...

    node = find_stage("sums").bind({"of": {"reward": 1.0, "channel:validity": 2.0}})
    assert node.needs == ("reward", "channel:validity")
    assert node.provides == (
        "plus:reward", "plus:channel:validity", "minus:reward", "minus:channel:validity", "total",
    )  # fmt: skip
    assert find_stage("sums").bind({"of": {}}).provides == ("total",)
    assert find_stage("sums").could_provide("minus:reward")
    assert not find_stage("sums").could_provide("reward")


def broken(result: Callable[[int], Any], name: str = "broken") -> None:
    """Register a stage whose function returns this, given the number of rows."""

    @credit(name, scope="turn", needs=["reward"], provides=["x"])
    def function(t: TurnTable) -> Any:
        return result(len(t))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda n: {"y": np.zeros(n)}, "stage 'broken' provides x; it returned y"),
        (lambda n: {"x": np.zeros(n), "y": np.zeros(n)}, "stage 'broken' provides x; it returned x, y"),
        (lambda n: np.zeros(n), "stage 'broken' provides x; it returned ndarray"),
        (lambda n: {"x": np.zeros(n - 1)}, r"column 'x' must hold a number for each of 5 turns.*\(4,\)"),
        (lambda n: {"x": ["a"] * n}, "column 'x' must hold a number for each of 5 turns; got <U1"),
        (
            lambda n: {"x": [0, np.nan, 0, np.nan, 0]},
            r"'x' is not finite in 2 of 5 rows, first in row 1 \(nan",
        ),
        (lambda n: {"x": [0, 0, 0, 0, -np.inf]}, r"'x' is not finite in 1 of 5 rows, first in row 4 \(-inf"),
    ],
)
def test_a_broken_promise_is_named(table: TurnTable, result: Callable[[int], Any], message: str) -> None:
    broken(result)
    with pytest.raises(StageError, match=message):
        find_stage("broken").bind({}).apply(table, {})


def test_unscored_values_do_not_slip_through(lab: Lab) -> None:
    table = lab.table(lab.episode("a", "g", 2), lab.episode("b", "g", 2))
    with pytest.raises(StageError, match="stage 'grpo': column 'advantage' is not finite in 4 of 4 rows"):
        lab.run("grpo", table, of="channel:validity")


def test_a_stage_sees_what_it_needs_and_nothing_else(table: TurnTable) -> None:
    @credit("peeks", scope="turn", needs=["reward", "milestone:*"], provides=["x"])
    def peeks(t: TurnTable) -> Any:
        assert "milestone:found" in t
        assert len(t.group_id) == len(t.index) == len(t.weight)
        return {"x": t.outcome}

    with pytest.raises(AttributeError, match="no column 'outcome' here; a stage sees what it") as error:
        find_stage("peeks").bind({}).apply(table, {})
    assert error.value.__notes__ == ["in credit stage 'peeks', on 5 turns"]


def test_a_stage_cannot_change_its_input(table: TurnTable) -> None:
    @credit("scribbles", scope="turn", needs=["reward"], provides=["x"])
    def scribbles(t: TurnTable) -> Any:
        t.reward[:] = 7
        return {"x": t.reward}

    with pytest.raises(ValueError, match="read-only"):
        find_stage("scribbles").bind({}).apply(table, {})


def test_state_comes_back_as_a_checkpoint_would_give_it(table: TurnTable) -> None:
    @credit("counts", scope="batch", provides=["x"])
    def counts(t: TurnTable, state: Any, step: int = 1) -> Any:
        seen = [*state.get("seen", ()), len(t)]
        return {"x": np.full(len(t), len(seen) * step)}, {"seen": tuple(seen)}

    node = find_stage("counts").bind({"step": 10})
    _, state = node.apply(table, {})
    columns, state = node.apply(table, state)
    assert state == {"seen": [5, 5]}
    assert columns["x"].tolist() == [20] * 5


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda x: x, "takes state and must return"),
        (lambda x: (x, {"array": np.zeros(2)}), "its state must be plain JSON"),
        (lambda x: (x, {"value": float("nan")}), "its state must be plain JSON"),
        (lambda x: (x, [1]), "its state must be a mapping, not list"),
    ],
)
def test_state_that_a_checkpoint_cannot_hold_is_refused(
    table: TurnTable, result: Callable[[Any], Any], message: str
) -> None:
    @credit("forgets", scope="batch", provides=["x"])
    def forgets(t: TurnTable, state: Any) -> Any:
        return result({"x": np.zeros(len(t))})

    with pytest.raises(StageError, match=message):
        find_stage("forgets").bind({}).apply(table, {})


def no_annotation(t: TurnTable, gamma=0.9) -> Any: ...  # type: ignore[no-untyped-def]
def starred(t: TurnTable, *rest: float) -> Any: ...
def plain(t: TurnTable, gamma: float = 0.9) -> Any: ...


@pytest.mark.parametrize(
    ("function", "declaration", "message"),
    [
        (no_annotation, {}, "parameters gamma need an annotation"),
        (starred, {}, "parameters rest need an annotation, and no"),
        (plain, {"needs": ["{of}"]}, "unknown parameter of stage x 'of'"),
        (plain, {"agree": ["gama"]}, "unknown parameter of stage x 'gama'; did you mean 'gamma'"),
        (plain, {"needs": "reward"}, "lists of names"),
        (plain, {"provides": []}, "provides no column"),
        (plain, {"scope": "epsiode"}, "unknown scope of stage x 'epsiode'; did you mean 'episode'"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(
    function: Callable[..., Any], declaration: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        credit("x", **{"scope": "turn", "provides": ["y"], **declaration})(function)


def test_a_name_belongs_to_one_function() -> None:
    for _ in range(2):  # a notebook cell that is run again defines the same function again
        credit("mine", scope="turn", provides=["x"])(plain)
    with pytest.raises(UsageError, match=r"stage 'mine' is already defined by .*plain"):
        credit("mine", scope="turn", provides=["x"])(lambda t: {})
    assert "mine" in stages()


def find_in_plugin(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Ask another interpreter for the stage ``plugged``, with a plugin of this code installed."""
    (folder / "my_plugin.py").write_text(code)
    info = folder / "my_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[turnwise.plugins]\nmine = my_plugin\n")
    asked = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "from turnwise.trainer.stage import find_stage\nprint(find_stage('plugged').summary)"
    )
    return subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)


def test_a_plugin_brings_stages(tmp_path: Path) -> None:
    code = (
        "from turnwise.trainer.stage import credit\n"
        "@credit('plugged', scope='turn', provides=['x'])\n"
        "def plugged(t):\n    'From afar.'\n"
    )
    assert find_in_plugin(tmp_path, code).stdout == "From afar.\n"


def test_a_broken_plugin_is_named(tmp_path: Path) -> None:
    last = find_in_plugin(tmp_path, "raise RuntimeError('no luck')").stderr.splitlines()[-1]
    assert "plugin mine (my_plugin) failed to load: RuntimeError: no luck" in last
