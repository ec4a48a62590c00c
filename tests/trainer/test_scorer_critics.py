"""The critics against arithmetic by hand: the states they read, what they learn and what they say."""

from __future__ import annotations

import copy
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from turnwise.agents.torch import init_model
from turnwise.agents.trajectory import Span
from turnwise.envs.errors import UsageError
from turnwise.envs.types import EndReason
from turnwise.trainer.begin import start_of
from turnwise.trainer.columns import base_columns
from turnwise.trainer.learner import DivergedError
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.scorers.critics import CriticsScorer, auc, explained
from turnwise.trainer.scorers.sections import Critics
from turnwise.trainer.scorers.states import before_and_after, interpolated_progress, states_of
from turnwise.trainer.table import TurnTable
from turnwise.trainer.train import train

Lab = SimpleNamespace
quick = settings(max_examples=20, deadline=None)


@pytest.fixture(scope="module")
def fresh(lab: Lab) -> Callable[[], PreTrainedModel]:
    """A small model with the same random weights every time."""
    model = init_model(lab.small_model, seed=1, device="cpu")
    return lambda: copy.deepcopy(model)


def scorer(model: PreTrainedModel, **changes: Any) -> CriticsScorer:
    return CriticsScorer(Critics.model_validate({"lr": 1e-2} | changes), model, seed=0)


def played(lab: Lab, seed: int = 3, episodes: int = 8) -> TurnTable:
    """Episodes of one to four turns. Those that succeed read token 5 before every turn and reach a milestone
    with each; those that fail read 6 and reach none."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(episodes):
        name, score, turns = f"{seed}-{number}", float(number % 2), []
        for index in range(int(rng.integers(1, 5))):
            seen = (5 if score else 6, *rng.integers(10, 32, 2).tolist())
            span = Span((8, 7), "policy", "learner", (-1.0, -1.0), (0, 0))
            reached = lab.milestones[index : index + 1] if score else ()
            turns.append(lab.turn(name, "g", index, reached, spans=(Span(seen, "env"), span)))
        made.append(lab.episode(name, "g", turns, score))
    table: TurnTable = lab.table(*made)
    return table


# ---------------------------------------------------------------- progress


def test_progress_is_interpolated_between_turns_that_reached_milestones(lab: Lab) -> None:
    """Of four milestones one is reached in turn 1 and two in turn 4: 0 to 1/4 over two turns, to 3/4 over
    three more, and 3/4 from then on, also where the episode is cut off."""
    reached = {1: ["found"], 4: ["changed", "checked"]}
    expected = [0, 1 / 8, 1 / 4, 1 / 4 + 1 / 6, 1 / 4 + 2 / 6, 3 / 4, 3 / 4]
    for end in (EndReason.SUBMITTED, EndReason.TURN_LIMIT):
        table = lab.table(lab.episode("a", "g", 7, 0.0, end, reached))
        assert interpolated_progress(table).tolist() == pytest.approx(expected)


def test_progress_without_milestones_and_up_to_the_last_turn(lab: Lab) -> None:
    """Before the first milestone progress is towards it; without any there is none; and an episode does not
    lend its progress to the next."""
    table = lab.table(
        lab.episode("a", "g", 2),
        lab.episode("b", "g", 4, reached={3: ["sent"]}),
        lab.episode("c", "g", 1, reached={0: lab.milestones}),
        lab.episode("d", "g", 2),
    )
    assert interpolated_progress(table).tolist() == [0, 0, 0, 1 / 16, 2 / 16, 3 / 16, 0, 0, 0]
    assert interpolated_progress(lab.table()).tolist() == []


@quick
@given(data=st.data())
def test_progress_rises_and_is_exact_right_after_a_milestone(lab: Lab, data: st.DataObject) -> None:
    table = lab.table(*data.draw(lab.batches()))
    progress = interpolated_progress(table)
    within = ~table.first[1:]
    assert np.all(np.diff(progress)[within] >= -1e-12)
    assert np.all(progress >= table.potential_before - 1e-12)
    exact = within & (table.progress[:-1] > 0)
    np.testing.assert_allclose(progress[1:][exact], table.potential_before[1:][exact])
    assert not progress[table.first].any()


# ---------------------------------------------------------------- states


def test_a_state_is_read_at_the_last_token_before_the_learners_first(lab: Lab) -> None:
    """Turns read 1 2 and write 10, 10 11, 10 11 12: states at 1, 4 and 8 of twelve tokens, of which those
    after the last state are not read at all."""
    table = lab.table(lab.episode("a", "g", 3, 1.0), lab.episode("b", "g", 1, 0.5))
    one, two = states_of(table, 1.0, interpolated_progress(table) + 0.5)
    assert one.ids.tolist() == [1, 2, 10, 1, 2, 10, 11, 1, 2]
    assert (one.places.tolist(), one.rows.tolist()) == ([1, 4, 8], [0, 1, 2])
    assert (two.ids.tolist(), two.places.tolist(), two.rows.tolist()) == ([1, 2], [1], [3])
    assert (one.success.tolist(), two.success.tolist()) == ([1, 1, 1], [0])
    assert (one.progress.tolist(), two.progress.tolist()) == ([0.5, 0.5, 0.5], [0.5])
    assert states_of(table, 0.5, None)[1].success.tolist() == [1]


def test_only_turns_that_the_learner_wrote_after_something_have_states(lab: Lab) -> None:
    first = lab.turn("a", "g", 0, spans=(lab.policy_span(10), lab.env_span(3)))
    other = lab.turn("a", "g", 1, spans=(lab.env_span(1), Span((22,), "forced"), Span((23,), "demo")))
    forced = (lab.env_span(1), Span((22,), "forced"), lab.policy_span(23), lab.policy_span(24))
    nothing = lab.turn("a", "g", 3, spans=())
    table = lab.table(lab.episode("a", "g", [first, other, lab.turn("a", "g", 2, spans=forced), nothing]))
    (found,) = states_of(table, 1.0, None)
    assert found.ids.tolist() == [10, 3, 1, 22, 23, 1, 22]
    assert (found.places.tolist(), found.rows.tolist()) == ([6], [2])


def test_a_shared_turn_is_a_state_of_each_episode(lab: Lab) -> None:
    shared = lab.turn("a", "g", 0)
    table = lab.table(
        lab.episode("a", "g", [shared, lab.turn("a", "g", 1)], 1.0),
        lab.episode("b", "g", [shared], 0.0),
    )
    one, two = states_of(table, 1.0, None)
    assert (one.rows.tolist(), two.rows.tolist()) == ([0, 1], [2])
    assert (one.success.tolist(), two.success.tolist()) == ([1, 1], [0])


def test_columns_of_what_was_read(lab: Lab) -> None:
    """The state after a turn is that before the next; after the last, and where none was read, the last one
    that was; before the first that was read, 0."""
    table = lab.table(lab.episode("a", "g", 3), lab.episode("b", "g", 3))
    before, after = before_and_after(table, np.array([0, 2, 4]), np.array([0.25, 0.5, 0.75]))
    assert before.tolist() == [0.25, 0.25, 0.5, 0, 0.75, 0.75]
    assert after.tolist() == [0.25, 0.5, 0.5, 0.75, 0.75, 0.75]


# ---------------------------------------------------------------- scores


def reference(critics: CriticsScorer, table: TurnTable) -> torch.Tensor:
    """The outputs before every turn, one unpadded prefix at a time: ``[turns, 2]``."""
    outputs = []
    for row in range(len(table)):
        first = row - int(table.index[row])
        ids = torch.from_numpy(table.tokens.ids[table.tokens.start[first] : table.tokens.start[row] + 3])
        hidden = critics.backbone(input_ids=ids[None]).last_hidden_state[0, -1]
        outputs.append(critics.head(hidden))
    return torch.stack(outputs)


def taught(critics: CriticsScorer, lab: Lab, steps: int = 12) -> CriticsScorer:
    for number in range(1, steps + 1):
        critics.step(played(lab, seed=number), number)
    return critics


def test_before_it_has_learned_every_state_looks_alike(lab: Lab, fresh: Any) -> None:
    scored = scorer(fresh()).step(played(lab), 1)
    assert set(scored.columns) == set(Critics().columns)
    assert np.all(scored.columns["success_before"] == 0.5)
    assert np.all(scored.columns["predicted_potential_after"] == 0.0)
    assert scored.stats["auc"] == 0.5


def test_what_is_said_is_of_the_state_before_the_turn_and_of_before_the_update(lab: Lab, fresh: Any) -> None:
    critics = taught(scorer(fresh()), lab)
    table = played(lab, seed=99)
    with torch.no_grad():
        expected = reference(critics, table).double().numpy()
    columns = critics.step(table, 13).columns
    np.testing.assert_allclose(columns["success_before"], 1 / (1 + np.exp(-expected[:, 0])), atol=1e-5)
    np.testing.assert_allclose(columns["predicted_potential_before"], expected[:, 1].clip(0, 1), atol=1e-5)
    following = np.where(table.last, np.arange(len(table)), np.arange(len(table)) + 1)
    for name in ("success", "predicted_potential"):
        assert np.array_equal(columns[f"{name}_after"], columns[f"{name}_before"][following])
    assert len(np.unique(columns["success_before"].round(4))) > len(table) / 2


def test_the_gradient_is_that_of_both_losses_over_all_states(lab: Lab, fresh: Any) -> None:
    critics = taught(scorer(fresh(), grad_clip=1e9), lab)
    table = played(lab, seed=99)
    outputs = reference(critics, table)
    outcome = torch.tensor(table.outcome, dtype=torch.float32)
    success = F.binary_cross_entropy_with_logits(outputs[:, 0], outcome)
    potential = ((outputs[:, 1] - torch.from_numpy(interpolated_progress(table))) ** 2).mean()
    parameters = [p for group in critics.optimizer.param_groups for p in group["params"]]
    gradients = torch.autograd.grad(success + potential, parameters)
    norm = float(torch.cat([g.flatten() for g in gradients]).norm())
    stats = critics.step(table, 13).stats
    assert stats["success_loss"] == pytest.approx(success.item(), abs=1e-5)
    assert stats["potential_loss"] == pytest.approx(potential.item(), abs=1e-5)
    assert stats["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert stats["states"] == len(table)


def test_it_learns_to_tell_success_and_progress(lab: Lab, fresh: Any) -> None:
    critics = taught(scorer(fresh(), minibatch=4), lab, steps=25)
    stats = critics.step(played(lab, seed=99, episodes=16), 26).stats
    assert stats["auc"] > 0.95
    assert stats["potential_r2"] > 0.3


def test_every_episode_is_scored_before_the_step_that_it_teaches(lab: Lab, fresh: Any) -> None:
    """In minibatches of one, the labels of an episode change what is said of later ones, and not of it."""
    table = played(lab)
    other = table.with_columns({"outcome": 1.0 - table.outcome})
    said = []
    for labelled in (table, other):
        critics = taught(scorer(fresh(), minibatch=1), lab, steps=2)
        said.append(critics.step(labelled, 3).columns["success_before"])
    alike = table.by_episode.max(np.abs(said[0] - said[1])) < 1e-7
    assert int(alike.sum()) == 1


def test_without_a_potential_there_is_no_column_of_it(lab: Lab, fresh: Any) -> None:
    settings = Critics(potential=False)
    assert settings.columns == ("success_before", "success_after")
    bare = TurnTable.from_episodes(
        [lab.episode("a", "g", 2, 1.0), lab.episode("b", "g", 2)], (), lab.channels
    )
    scored = CriticsScorer(settings, fresh(), 0).step(bare, 1)
    assert set(scored.columns) == set(settings.columns)
    assert "potential_loss" not in scored.stats
    with pytest.raises(UsageError, match=r"critics learns progress.*set potential: false"):
        Recipe.load("quickstart-mira").pipeline(base_columns((), {}))


def test_what_is_remembered_is_learned_from_again(lab: Lab, fresh: Any) -> None:
    forgetful, mindful = scorer(fresh()), scorer(fresh(), replay=5)
    for critics in (forgetful, mindful):
        critics.step(played(lab, seed=1), 1)
    assert (len(forgetful.memory), len(mindful.memory)) == (0, 5)
    losses = [critics.step(played(lab, seed=2), 2).stats["success_loss"] for critics in (forgetful, mindful)]
    assert losses[0] != losses[1]
    assert len(mindful.memory) == 5
    assert not any(len(states.rows) for states in mindful.memory)


def test_it_goes_on_from_its_state_as_if_unbroken(lab: Lab, fresh: Any) -> None:
    whole = taught(scorer(fresh(), replay=5, minibatch=3), lab, steps=2)
    file = io.BytesIO()
    torch.save(whole.state(), file)
    file.seek(0)
    resumed = scorer(fresh(), replay=5, minibatch=3)
    resumed.load(torch.load(file, weights_only=True))
    one, other = (critics.step(played(lab, seed=3), 3) for critics in (whole, resumed))
    assert one.stats == other.stats
    assert all(np.array_equal(one.columns[name], other.columns[name]) for name in one.columns)


def test_what_is_not_finite_stops_it_before_it_is_used(lab: Lab, fresh: Any) -> None:
    critics = taught(scorer(fresh()), lab, steps=1)
    with torch.no_grad():
        critics.head.weight[0, 0] = math.nan
    with pytest.raises(DivergedError, match="is not finite at step 2: lower the lr of the scorer critics"):
        critics.step(played(lab), 2)


def test_figures_by_hand() -> None:
    """Of the six pairs of a positive and another, four are in order and one is a draw."""
    scores, positive = np.array([0.9, 0.5, 0.5, 0.2, 0.7]), np.array([True, True, False, False, False])
    assert auc(scores, positive) == pytest.approx(4.5 / 6)
    assert math.isnan(auc(scores, np.ones(5, dtype=bool)))
    assert explained(np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0])) == pytest.approx(1 - 1 / (2 / 3))
    assert math.isnan(explained(np.ones(2), np.zeros(2)))


# ---------------------------------------------------------------- in a run

MIRA: dict[str, Any] = {
    "scorers": [{"kind": "critics", "lr": 1e-3, "minibatch": 8, "replay": 8}],
    "credit": [
        "outcome",
        {"kind": "shaping", "potential": "predicted_potential"},
        "doubly_robust",
        "scale",
    ],
    "loss": {"kind": "regression"},
}


@pytest.mark.parametrize("loss", ["regression", "weighted"])
async def test_a_run_logs_what_its_critics_are_worth(guess: ModuleType, tmp_path: Path, loss: str) -> None:
    run = await train(guess.recipe(**MIRA | {"loss": {"kind": loss}}), run=tmp_path / "a")
    assert run.summary.stopped == "finished"
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    for row in (r for r in rows if r["kind"] == "train"):
        assert 0 <= row["critics"]["auc"] <= 1
        assert row["critics"]["states"] == row["turns"] * 32
        assert row["grad_norm"] > 0


async def test_a_run_of_critics_that_diverge_stops_with_a_checkpoint(
    guess: ModuleType, tmp_path: Path
) -> None:
    reckless = [MIRA["scorers"][0] | {"lr": 1e30}]
    run = await train(guess.recipe(**MIRA | {"scorers": reckless}), run=tmp_path / "a")
    assert "lower the lr of the scorer critics" in run.summary.stopped
    assert (run.folder / "checkpoints" / "latest").read_text() == "000000"


def test_a_warm_start_does_not_depend_on_scorers_or_loss() -> None:
    one, other = (start_of(Recipe.load(name)) for name in ("quickstart-mira", "quickstart-outcome"))
    assert one == other
