"""Task sets: the same tasks everywhere, splits apart, and a sampler that goes on where it was."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from turnwise.envs.errors import UsageError
from turnwise.envs.tasks import Sampler, TaskSet, seeds
from turnwise.envs.types import SPLITS, EpisodeLimits, Task, TaskPublic, TaskRef, TaskSecret


def worded(word: str, *, size: int = 5, version: str = "1", env: str = "test/words") -> TaskSet:
    """A set whose instructions hold a word."""

    def make(index: int, name: str) -> Task:
        ref = TaskRef(env=name, id=f"train/{index}", seed=index)
        return Task(ref=ref, public=TaskPublic(instruction=f"{word} {index}"))

    return TaskSet("train", size, make).bind(env, version)


def test_a_task_is_made_when_asked_for_and_only_then() -> None:
    huge = seeds("train", 10**12)
    assert len(huge) == 10**12
    assert huge[10**12 - 1] == huge[-1]
    assert huge[-1].ref.seed == 10**12 - 1
    assert [task.ref.seed for task in huge[3:6]] == [3, 4, 5]


@pytest.mark.parametrize("index", [5, -6])
def test_a_task_that_is_not_there_is_named(index: int) -> None:
    with pytest.raises(IndexError, match=f"task {index} of 5 in split train of test/words"):
        worded("copy")[index]


def test_an_unknown_split_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown split 'tests'; did you mean 'test'") as told:
        seeds("tests", 3)
    assert "\n" not in str(told.value)


def test_a_split_may_be_empty_but_nothing_is_drawn_from_it() -> None:
    empty = seeds("test", 0).bind("demo/x", "1")
    assert (len(empty), list(empty)) == (0, [])
    for draw in (lambda: empty.nth(3), lambda: Sampler(empty, seed=0).draw(1)):
        with pytest.raises(UsageError, match="split 'test' of demo/x has no tasks"):
            draw()


def test_splits_of_seeds_share_neither_seed_nor_name() -> None:
    for one, other in itertools.combinations(SPLITS, 2):
        first, second = seeds(one, 500), seeds(other, 500)
        assert {t.ref.seed for t in first}.isdisjoint(t.ref.seed for t in second)
        assert {t.id for t in first}.isdisjoint(t.id for t in second)


def test_the_hash_depends_on_all_that_makes_results_comparable() -> None:
    base = worded("copy").hash
    assert base == worded("copy").hash
    others = [
        worded("move").hash,
        worded("copy", size=4).hash,
        worded("copy", version="2").hash,
        worded("copy", env="test/other").hash,
    ]
    assert len({base, *others}) == 5


def test_the_hash_is_the_same_on_every_machine() -> None:
    assert worded("copy").hash == "8d38b66a8a4d"


def test_a_tasks_randomness_is_its_own_and_repeatable() -> None:
    draws = [task.rng.random() for task in seeds("train", 3).bind("test/words", "1")]
    again = [task.rng.random() for task in seeds("train", 3).bind("test/words", "1")]
    elsewhere = [task.rng.random() for task in seeds("train", 3).bind("test/other", "1")]
    assert draws == again
    assert len({*draws, *elsewhere}) == 6


def test_the_secret_half_is_not_printed() -> None:
    task = Task(ref=TaskRef(env="e/n", id="1", seed=1), secret=TaskSecret(data={"gold": "hush"}))
    assert "hush" not in repr(task) + str(task)


@pytest.mark.parametrize(
    "limits", [{"turns": 0}, {"seconds": float("nan")}, {"seconds": float("inf")}, {"steps": 3}]
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(limits))):
        EpisodeLimits.model_validate(limits)


@given(size=st.integers(1, 30), seed=st.integers(0, 2**32), draws=st.lists(st.integers(0, 20), max_size=6))
def test_a_sampler_goes_through_every_task_before_it_repeats_one(
    size: int, seed: int, draws: list[int]
) -> None:
    sampler = Sampler(worded("copy", size=size), seed)
    drawn = [task.ref.seed for count in draws for task in sampler.draw(count)]
    for start in range(0, len(drawn), size):
        epoch = drawn[start : start + size]
        assert len(set(epoch)) == len(epoch)
    assert sampler.cursor == sum(draws)


@given(size=st.integers(1, 30), seed=st.integers(0, 2**32), before=st.integers(0, 70))
def test_a_sampler_resumed_from_its_cursor_draws_what_it_would_have_drawn(
    size: int, seed: int, before: int
) -> None:
    tasks = worded("copy", size=size)
    unbroken, resumed = Sampler(tasks, seed), Sampler(tasks, seed, cursor=before)
    unbroken.draw(before)
    assert [t.id for t in unbroken.draw(40)] == [t.id for t in resumed.draw(40)]


def test_every_epoch_and_every_seed_has_an_order_of_its_own() -> None:
    tasks = worded("copy", size=50)
    orders = {
        tuple(t.id for t in Sampler(tasks, seed, cursor).draw(50)) for seed in (1, 2) for cursor in (0, 50)
    }
    assert len(orders) == 4
