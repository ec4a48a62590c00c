"""The guards: what stops a run, what it is warned of, and what they remember in a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from turnwise.agents.metrics import rates
from turnwise.agents.trajectory import Episode
from turnwise.envs.types import EndReason
from turnwise.trainer.recipe import Guards
from turnwise.trainer.watch import WINDOW, RunStopped, Watch


@pytest.fixture
def some(lab: SimpleNamespace) -> Any:
    """So many episodes that succeed, fail, run out of turns, and were failed by the machine."""

    def make(won: int = 0, lost: int = 0, endless: int = 0, failed: int = 0) -> list[Episode]:
        kinds: list[tuple[float | None, EndReason]] = [(1.0, EndReason.SUBMITTED)] * won
        kinds += [(0.0, EndReason.SUBMITTED)] * lost
        kinds += [(0.0, EndReason.TURN_LIMIT)] * endless + [(None, EndReason.INFRA_ERROR)] * failed
        episodes = [lab.episode(f"e{i}", "g", 1, score, end) for i, (score, end) in enumerate(kinds)]
        return [replace(e, error="" if e.end.trainable else "SandboxDied: gone") for e in episodes]

    return make


def see(watch: Watch, episodes: list[Episode]) -> list[str]:
    return watch.step(rates(episodes), episodes)


def test_too_many_exclusions_stop_the_run_with_the_reasons(some: Any) -> None:
    watch = Watch(Guards(excluded=0.25), {})
    assert see(watch, some(won=3, failed=1)) == []
    with pytest.raises(RunStopped, match=r"50% of the episodes .* is 25%\): SandboxDied: gone"):
        see(watch, some(won=2, failed=2))


def test_no_scored_episode_at_all_stops_the_run_whatever_the_guard(some: Any) -> None:
    watch = Watch(Guards(excluded=1.0), {})
    assert see(watch, some(won=1, failed=9)) == []
    with pytest.raises(RunStopped, match=r"100% of the episodes failed"):
        see(watch, some(failed=4))


def test_a_fall_of_the_completion_rate_is_warned_of(some: Any) -> None:
    watch = Watch(Guards(completion_drop=0.3), {})
    assert see(watch, some(won=5, endless=5)) == []
    assert see(watch, some(lost=9, endless=1)) == []
    assert see(watch, some(won=7, endless=3)) == []
    (warning,) = see(watch, some(won=5, endless=5))
    assert warning.startswith("completion fell to 50% from 90%")


def test_excluded_episodes_do_not_lower_the_completion_rate(some: Any) -> None:
    watch = Watch(Guards(), {})
    assert see(watch, some(won=4)) == []
    assert see(watch, some(won=4, failed=4)) == []


def test_exclusions_that_go_with_success_are_warned_of(some: Any) -> None:
    """Only once there are enough steps to tell, and not where exclusions come at random."""
    related, unrelated = Watch(Guards(), {}), Watch(Guards(), {})
    for step in range(WINDOW):
        warned = see(related, some(won=step, lost=WINDOW - step, failed=step // 2))
        assert bool(warned) == (step == WINDOW - 1)
        assert see(unrelated, some(won=step, lost=WINDOW - step, failed=step % 2)) == []
    assert "go with success (correlation +" in warned[0]
    steady = Watch(Guards(), {})
    assert not any(see(steady, some(won=s, lost=WINDOW - s)) for s in range(WINDOW + 1)), "none excluded"


def test_the_state_survives_a_checkpoint(some: Any) -> None:
    """Stored as JSON half-way, it warns as one that was never stored."""
    whole = half = Watch(Guards(), {})
    for step in range(WINDOW + 5):
        if step == WINDOW // 2:
            half = Watch(Guards(), json.loads(json.dumps(whole.state)))
        episodes = some(won=step, lost=30 - step, failed=step // 2, endless=step)
        warned = see(whole, episodes)
        assert half is whole or see(half, episodes) == warned
    assert len(warned) == 2
    assert half.state == whole.state
    assert len(whole.state["excluded"]) == WINDOW


def test_a_collapse_of_success_stops_the_run(some: Any) -> None:
    """Over five steps, against the best five; a low start is nothing to lose."""
    watch = Watch(Guards(collapse=0.5), {})
    for won in (0, 0, 0, 0, 0, 8, 8, 8, 8, 8, 0, 0):
        see(watch, some(won=won, lost=10 - won))
    with pytest.raises(
        RunStopped, match=r"collapsed to 32\.0% over 5 steps, from 80\.0% .*lower optimizer\.lr"
    ):
        see(watch, some(lost=10))
    patient = Watch(Guards(collapse=None), {})
    for won in (8, 8, 8, 8, 8, 0, 0, 0, 0, 0):
        see(patient, some(won=won, lost=10 - won))


def test_steps_that_teach_nothing_are_warned_of_once() -> None:
    watch = Watch(Guards(), {})
    warned = [watch.signal(groups=4, without=without) for without in (4, 4, 3, 4, 4, 4, 4, 4, 4)]
    assert [bool(w) for w in warned] == [False] * 7 + [True, False]
    assert "nothing to compare" in warned[7][0]
