"""Errors for users: one line with the value, what is allowed and the nearest match."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from turnwise.envs.errors import UsageError, folded, invalid, quote, unknown


class Cat(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["cat"] = "cat"
    lives: int = Field(default=9, gt=0)
    whiskers: int = Field(default=24, ge=0, le=30)
    toys: tuple[str, ...] = ()


class Dog(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["dog"] = "dog"
    tricks: tuple[Cat, ...] = ()


class House(BaseModel):
    model_config = ConfigDict(extra="forbid")
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    mood: Literal["quiet", "loud"] = "quiet"


def test_unknown_names_the_nearest_and_all_that_is_allowed() -> None:
    error = unknown("stage", "grop", ["rloo", "grpo"])
    assert isinstance(error, ValueError)
    assert str(error) == "unknown stage 'grop'; did you mean 'grpo'? (allowed: grpo, rloo)"
    assert str(unknown("stage", "zzz", ["grpo"])) == "unknown stage 'zzz' (allowed: grpo)"
    assert str(unknown("stage", "zzz", [])) == "unknown stage 'zzz' (allowed: none)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pet": {"kind": "cat", "live": 1}}, "unknown field in pet.cat 'live'; did you mean 'lives'? "),
        (
            {"pet": {"kind": "dog", "tricks": [{"live": 1}]}},
            "unknown field in pet.dog.tricks.0 'live'; did you",
        ),
        ({"pet": {"kind": "cow"}}, "unknown kind of pet 'cow'"),
        ({"pet": {"kind": "cat", "lives": 0}}, "pet.cat.lives = 0: Input should be greater than 0"),
        (
            {"pet": {"kind": "cat", "whiskers": 31}},
            "pet.cat.whiskers = 31: Input should be less than or equal",
        ),
        ({"pet": {"kind": "cat", "whiskers": -1}}, "than or equal to 0 (allowed: 0 to 30)"),
        ({"pet": {"kind": "cat", "toys": "ball"}}, 'pet.cat.toys = "ball": Input should be a list'),
        ({"pet": {"kind": "cat", "lives": "x" * 200}}, f'pet.cat.lives = "{"x" * 76}...: Input should'),
        (
            {"pet": {"kind": "cat"}, "mood": "lout"},
            "unknown mood 'lout'; did you mean 'loud'? (allowed: loud,",
        ),
        ({}, "pet is missing"),
        ({"mood": "x"}, "(and 1 more)"),
    ],
)
def test_a_validation_error_becomes_one_line(content: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        House.model_validate(content)
    line = str(invalid("house", error.value, House))
    assert line.startswith("house: ")
    assert message in line
    assert "\n" not in line
    assert isinstance(invalid("house", error.value, House), UsageError)


def test_only_what_is_quoted_keeps_its_lines() -> None:
    message = folded("it\n  failed" + quote("a\n\n  b  \n"))
    assert message == "it failed\n  | a\n  |   b"
    assert folded("it failed" + quote(" \n")) == "it failed"
    long = quote("\n".join(map(str, range(100))))
    assert long.startswith("\n  | …\n  | 85\n")
    assert long.endswith("\n  | 99")
