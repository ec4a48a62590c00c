"""How a method becomes a tool, a milestone or a reward, and what an agent's arguments are held to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from turnwise.envs.env import Env, random_arguments
from turnwise.envs.tool import ToolError, milestone, reward, tool
from turnwise.envs.types import AgentView, text


class Bench(Env):
    """Tools of every kind."""

    name = "test/bench"

    @tool
    def cut(self, length: Annotated[int, Field(ge=1, le=9)], tool_name: str = "saw") -> str:
        """Cut a board.

        To a length.
        """
        return f"{tool_name} {length}"

    @tool
    async def paint(self, colour: str) -> AgentView:
        """Paint it."""
        return text(colour)

    @tool
    def store(self, copy: bool, json: str, schema: int) -> str:
        """Parameters with names that pydantic has methods of."""
        return f"{copy} {json} {schema}"

    @tool(submits=True)
    def deliver(self) -> str:
        """Hand it over."""
        return "thanks"

    @tool
    def broken(self) -> str:
        """Return what no tool may."""
        return 3  # type: ignore[return-value]

    @milestone
    def is_cut(self) -> bool:
        return True

    @milestone
    async def is_painted(self) -> bool:
        return False

    @reward("tidiness", level=2)
    def tidy(self) -> float | None:
        return None


async def use(name: str, **arguments: Any) -> str | AgentView:
    return await Bench.interface.tools[name](Bench(), arguments)


def test_a_signature_is_the_schema_the_agent_sees() -> None:
    spec = Bench.interface.tools["cut"].spec
    assert spec.description == "Cut a board.\n\nTo a length."
    assert spec.parameters == {
        "type": "object",
        "properties": {
            "length": {"type": "integer", "minimum": 1, "maximum": 9},
            "tool_name": {"type": "string", "default": "saw"},
        },
        "required": ["length"],
        "additionalProperties": False,
    }
    assert list(Bench.interface.tools["store"].spec.parameters["properties"]) == ["copy", "json", "schema"]  # type: ignore[arg-type]


def test_order_is_that_of_definition() -> None:
    assert [spec.name for spec in Bench.interface.specs] == ["cut", "paint", "store", "deliver", "broken"]
    assert Bench.milestone_names() == ("is_cut", "is_painted")
    assert Bench.channels() == {"outcome": 0, "validity": 1, "tidiness": 2}
    assert [name for name, one in Bench.interface.tools.items() if one.submits] == ["deliver"]


async def test_tools_are_called_sync_or_async_with_defaults() -> None:
    assert await use("cut", length=3) == "saw 3"
    assert await use("cut", length="3", tool_name="axe") == "axe 3"
    assert await use("paint", colour="red") == text("red")
    assert await use("store", copy=True, json="{}", schema=1) == "True {} 1"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "cut: length: field required"),
        ({"length": 0}, "cut: length: .*greater than or equal to 1"),
        ({"length": "long"}, "cut: length: .*integer"),
        ({"length": float("nan")}, "cut: length: "),
        ({"length": 1, "tool_name": 5}, "cut: tool_name: .*string"),
        ({"length": 1, "width": 2}, "cut: width: extra"),
        ({"argument_length": 1}, "cut: length: field required"),
    ],
)
async def test_wrong_arguments_are_named_and_never_reach_the_tool(
    arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(ToolError, match=named) as told:
        await use("cut", **arguments)
    assert "\n" not in str(told.value)


async def test_a_tool_that_returns_something_else_is_a_bug_of_the_environments() -> None:
    with pytest.raises(TypeError, match="broken returned int"):
        await use("broken")


@pytest.mark.parametrize(
    "function", [lambda self, n: str(n), lambda self, *words: "", lambda self, **words: ""]
)
def test_a_parameter_without_a_type_is_refused_when_the_class_is_made(function: Callable[..., str]) -> None:
    with pytest.raises(TypeError, match=r"tool guess: parameter (n|words) needs a type"):
        type("Untyped", (Env,), {"name": "test/untyped", "guess": tool(function)})


def test_an_override_takes_its_bases_place_and_a_subclass_adds_behind() -> None:
    class Finer(Bench):
        @tool
        def sand(self) -> str:
            """Sand it."""
            return "smooth"

        @tool
        def cut(self, length: int, tool_name: str = "") -> str:
            """Cut it finely."""
            return str(length)

    names = [spec.name for spec in Finer.interface.specs]
    assert names == ["cut", "paint", "store", "deliver", "broken", "sand"]
    assert Finer.interface.tools["cut"].spec.description == "Cut it finely."
    assert Bench.interface.tools["cut"].spec.description.startswith("Cut a board.")


@given(st.randoms(use_true_random=False), st.sampled_from(["cut", "paint", "store", "deliver"]))
def test_random_arguments_are_well_formed(rng: Any, name: str) -> None:
    spec = Bench.interface.tools[name]
    arguments = random_arguments(spec.spec.parameters, rng)
    assert set(arguments) == set(spec.spec.parameters["properties"])  # type: ignore[arg-type]
    spec.arguments.model_validate(arguments)
