"""The implicit reward model against sums by hand: what it scores, what it learns from, what it keeps."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from turnwise.agents.torch import init_model, sequence_logprobs
from turnwise.agents.trajectory import Span
from turnwise.envs.errors import UsageError
from turnwise.trainer.learner import DivergedError
from turnwise.trainer.rescore import rescore
from turnwise.trainer.scorers.implicit import ImplicitScorer
from turnwise.trainer.scorers.sections import ImplicitReward
from turnwise.trainer.scorers.trajectories import groups_of
from turnwise.trainer.stage import StageError, credit
from turnwise.trainer.table import TurnTable
from turnwise.trainer.train import train


@pytest.fixture(scope="module")
def fresh(lab: SimpleNamespace) -> Callable[[int], PreTrainedModel]:
    """Small models, the same for the same seed."""
    made = {seed: init_model(lab.small_model, seed=seed, device="cpu") for seed in (1, 2)}

    def copied(seed: int = 1) -> PreTrainedModel:
        return copy.deepcopy(made[seed])

    return copied


def scorer(model: PreTrainedModel, **settings: Any) -> ImplicitScorer:
    base = {"beta": 1.0, "lr": 1e-2, "score": "before_update"}
    return ImplicitScorer(ImplicitReward.model_validate(base | settings), model, 1.0, 0)


def played(
    lab: SimpleNamespace, policy: PreTrainedModel, groups: Mapping[str, Mapping[str, float]], seed: int = 3
) -> TurnTable:
    """Groups of episodes with these scores, of random turns that ``policy`` sampled. Successes write low
    token ids and failures high ones."""
    rng = np.random.default_rng(seed)
    episodes = []
    for group, scores in groups.items():
        for name, score in scores.items():
            ids: list[int] = []
            turns = []
            for index in range(int(rng.integers(1, 4))):
                seen = tuple(rng.integers(0, 32, 2).tolist())
                low = 0 if score >= 1 else 16
                written = tuple(rng.integers(low, low + 16, rng.integers(1, 4)).tolist())
                ids += [*seen, *written]
                with torch.no_grad():
                    exact = sequence_logprobs(policy, torch.tensor([ids]))[0, -len(written) :]
                span = Span(written, "policy", "learner", tuple(exact.tolist()), (0,) * len(written))
                turns.append(lab.turn(name, group, index, spans=(Span(seen, "env"), span)))
            episodes.append(lab.episode(name, group, turns, score))
    table: TurnTable = lab.table(*episodes)
    return table


MIXED = {"g": {"a": 1.0, "b": 0.0, "c": 0.0}, "h": {"d": 1.0, "e": 1.0, "f": 0.0}}
ALIKE = {"i": {"k": 0.0, "l": 0.0}, "j": {"m": 1.0, "n": 1.0}}


def by_hand(model: PreTrainedModel, table: TurnTable) -> tuple[Tensor, Tensor]:
    """The log-ratio of every written token, one unpadded episode at a time, and its episode."""
    ratios, owner = [], []
    for episode in range(table.episodes):
        rows = np.flatnonzero(table.episode_id == episode)
        places = np.arange(table.tokens.start[rows[0]], table.tokens.stop[rows[-1]])
        logprobs = sequence_logprobs(model, torch.from_numpy(table.tokens.ids[places])[None])[0]
        for k, place in enumerate(places):
            if table.tokens.trainable[place]:
                ratios.append(logprobs[k - 1] - float(table.tokens.logprobs[place]))
                owner.append(episode)
    return torch.stack(ratios), torch.tensor(owner)


def totals_by_hand(model: PreTrainedModel, table: TurnTable, beta: float) -> Tensor:
    ratios, owner = by_hand(model, table)
    return beta * torch.zeros(table.episodes).index_add(0, owner, ratios)


# ---------------------------------------------------------------- scores


def test_a_turns_reward_is_beta_times_the_log_ratio_of_its_tokens(lab: Any, fresh: Any) -> None:
    table = played(lab, fresh(1), MIXED)
    columns = scorer(fresh(2), beta=0.3).step(table, 1).columns
    ratios, _ = by_hand(fresh(2), table)
    tokens = columns["token:implicit"]
    assert tokens[table.tokens.trainable] == pytest.approx(0.3 * ratios.detach().numpy(), abs=1e-5)
    assert np.isnan(tokens[~table.tokens.trainable]).all()
    assert columns["implicit"].tolist() == table.gather(tokens).tolist()


def test_the_policy_itself_as_the_model_rewards_nothing(lab: Any, fresh: Any) -> None:
    """It starts from the policy, and the reference is what the policy sampled with."""
    columns = scorer(fresh(1)).step(played(lab, fresh(1), MIXED), 1).columns
    assert columns["implicit"] == pytest.approx(0.0, abs=1e-5)


def test_the_initial_policy_as_the_reference_stays_what_it_was(lab: Any, fresh: Any) -> None:
    """The tokens were sampled by another model, whose log-probabilities do not matter then."""
    table, one = played(lab, fresh(2), MIXED), scorer(fresh(1), reference="initial")
    assert one.step(table, 1).columns["implicit"] == pytest.approx(0.0, abs=1e-5)
    second = one.step(table, 2).columns["token:implicit"][table.tokens.trainable]
    now, _ = by_hand(scorer_after(lab, fresh, table), table)
    then, _ = by_hand(fresh(1), table)
    assert second == pytest.approx((now - then).detach().numpy(), abs=1e-4)


def scorer_after(lab: Any, fresh: Any, table: TurnTable) -> PreTrainedModel:
    one = scorer(fresh(1), reference="initial")
    one.step(table, 1)
    return one.model


def test_scores_before_or_after_the_update(lab: Any, fresh: Any) -> None:
    table = played(lab, fresh(1), MIXED)
    after = scorer(fresh(1), score="after_update")
    columns = after.step(table, 1).columns
    ratios, _ = by_hand(after.model, table)
    assert columns["token:implicit"][table.tokens.trainable] == pytest.approx(
        ratios.detach().numpy(), abs=1e-4
    )
    assert np.abs(columns["implicit"]).max() > 1e-3, "it has learned from them by then"


def test_what_is_not_scored_is_nan(lab: Any, fresh: Any) -> None:
    table = played(lab, fresh(1), MIXED | ALIKE)
    mixed = np.isin(table.names["group_id"][table.group_id], list(MIXED))
    one = scorer(fresh(2), scored="mixed", warm_up=1)
    assert np.isnan(one.step(table, 1).columns["implicit"]).all(), "while it only learns"
    assert np.isnan(one.step(table, 2).columns["implicit"]).tolist() == (~mixed).tolist()
    assert np.isfinite(scorer(fresh(2)).step(table, 1).columns["implicit"]).all()


def test_a_reward_that_is_not_finite_is_refused(lab: Any, fresh: Any) -> None:
    model = fresh(1)
    torch.nn.init.constant_(model.get_input_embeddings().weight, math.nan)
    with pytest.raises(DivergedError, match="implicit reward is not finite at step 3"):
        scorer(model).step(played(lab, fresh(1), MIXED), 3)


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("total", ["sum", "step_mean"])
def test_the_preference_loss_is_over_all_pairs_of_a_group(lab: Any, fresh: Any, total: str) -> None:
    """a above b and c; d and e above f; no pair across groups."""
    table = played(lab, fresh(1), MIXED)
    model = fresh(2)
    scores = totals_by_hand(model, table, 0.7)
    if total == "step_mean":
        scores = scores / torch.from_numpy(table.by_episode.size)
    at = {name: scores[i] for i, name in enumerate(table.names["episode_id"])}
    pairs = [("a", "b"), ("a", "c"), ("d", "f"), ("e", "f")]
    loss = -torch.stack([F.logsigmoid(at[x] - at[y]) for x, y in pairs]).mean()
    check_step(table, fresh, loss, model, beta=0.7, loss="preference", total=total)


def test_cross_entropy_is_over_all_episodes(lab: Any, fresh: Any) -> None:
    table = played(lab, fresh(1), MIXED | ALIKE)
    model = fresh(2)
    scores = totals_by_hand(model, table, 0.7)
    success = torch.tensor([1.0, 0, 0, 1, 1, 0, 0, 0, 1, 1])
    loss = -(success * F.logsigmoid(scores) + (1 - success) * F.logsigmoid(-scores)).mean()
    check_step(table, fresh, loss, model, beta=0.7, loss="cross_entropy")


def check_step(
    table: TurnTable, fresh: Any, expected: Tensor, model: PreTrainedModel, **settings: Any
) -> None:
    """One step of plain descent at rate 1 moves the weights by the gradient of this loss."""
    gradient = torch.autograd.grad(expected, list(model.parameters()))
    one = scorer(fresh(2), grad_clip=1e9, **settings)
    one.optimizer = torch.optim.SGD(one.model.parameters(), lr=1.0)
    stats = one.step(table, 1).stats
    assert stats["loss"] == pytest.approx(expected.item(), abs=1e-5)
    for moved, start, slope in zip(one.model.parameters(), model.parameters(), gradient, strict=True):
        assert torch.allclose(start - moved, slope, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"loss": "cross_entropy", "reference": "initial"}])
def test_it_learns_to_rank_episodes_it_has_not_seen(lab: Any, fresh: Any, settings: Any) -> None:
    groups = {f"g{g}": {f"{g}-{i}": float(i % 2) for i in range(4)} for g in range(6)}
    one = scorer(fresh(1), replay=12, minibatch=6, optimizer_steps=2, **settings)
    stats = [one.step(played(lab, fresh(1), groups, seed), seed).stats for seed in range(1, 9)]
    assert stats[0]["auc"] == pytest.approx(0.5, abs=0.35)
    assert np.mean([s["auc"] for s in stats[-3:]]) > 0.75
    assert stats[0]["memory"] == 6
    assert stats[-1]["memory"] == 12
    assert stats[-1]["pairs"] == 6 * 4


@pytest.mark.parametrize("groups", [ALIKE, {"i": {"k": 0.0}, "j": {"m": 1.0}}])
def test_without_a_pair_nothing_is_learned_and_that_is_counted(lab: Any, fresh: Any, groups: Any) -> None:
    """No failures, no successes, groups of one."""
    one, before = scorer(fresh(1)), fresh(1)
    stats = one.step(played(lab, fresh(1), groups), 1).stats
    assert (stats["groups"], stats["pairs"], stats["memory"]) == (0, 0, 0)
    assert math.isnan(stats["auc"])
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), before.parameters(), strict=True))


def test_groups_too_easy_or_too_hard_are_left_out(lab: Any, fresh: Any) -> None:
    table = played(lab, fresh(1), MIXED | ALIKE)
    one = scorer(fresh(1), loss="cross_entropy", accuracy=[0.2, 0.5])
    assert one.step(table, 1).stats["groups"] == 1, "g, where a third succeeds"


def test_a_shared_turn_counts_in_every_episode_that_has_it(lab: Any) -> None:
    shared = lab.turn("a", "g", 0)
    episodes = [lab.episode(n, "g", [shared, lab.turn(n, "g", 1)], s) for n, s in (("a", 1.0), ("b", 0.0))]
    (group,) = groups_of(lab.table(*episodes), success=1.0)
    assert [len(t.written) for t in group.trajectories] == [3, 3]
    assert group.turns.tolist() == [2, 2]
    assert group.success.tolist() == [True, False]


# ---------------------------------------------------------------- in a run


def test_it_goes_on_from_a_checkpoint_as_if_unbroken(lab: Any, fresh: Any) -> None:
    settings = {"replay": 3, "minibatch": 2, "optimizer_steps": 2, "reference": "initial"}
    tables = [played(lab, fresh(1), MIXED, seed) for seed in (1, 2, 3)]
    whole, half = scorer(fresh(1), **settings), scorer(fresh(1), **settings)
    for number in (1, 2):
        whole.step(tables[number - 1], number)
    file = io.BytesIO()
    torch.save(whole.state(), file)
    file.seek(0)
    half.load(torch.load(file, weights_only=True))
    one, other = (s.step(tables[2], 3) for s in (whole, half))
    assert np.array_equal(one.columns["implicit"], other.columns["implicit"])
    assert one.stats == other.stats
    assert all(
        torch.equal(a, b) for a, b in zip(whole.model.parameters(), half.model.parameters(), strict=True)
    )


IMPLICIT: dict[str, Any] = {
    "scorers": [{"kind": "implicit", "beta": 1.0, "lr": 1e-3, "replay": 8, "minibatch": 4}],
    "credit": [
        "outcome",
        {"kind": "grpo", "into": "episode_advantage"},
        {"kind": "group_norm", "of": "implicit"},
        {"kind": "fuse", "of": {"episode_advantage": 1.0, "step_advantage": 0.5}},
    ],
}
PRIME: dict[str, Any] = {
    "scorers": [IMPLICIT["scorers"][0] | {"loss": "cross_entropy", "reference": "initial"}],
    "credit": ["prime"],
}


@pytest.mark.parametrize("changes", [IMPLICIT, PRIME])
async def test_a_run_logs_how_well_it_ranks(guess: ModuleType, tmp_path: Path, changes: Any) -> None:
    run = await train(guess.recipe(**changes), run=tmp_path / "a")
    assert run.summary.stopped == "finished"
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    figures = [row["implicit"] for row in rows if row["kind"] == "train"]
    assert [f["groups"] > 0 for f in figures] == [True, True]
    assert any(0 <= f["auc"] <= 1 for f in figures if f["pairs"])


@pytest.mark.parametrize("changes", [IMPLICIT, PRIME])
async def test_rescored_by_its_own_recipe_a_run_gets_its_own_credit(
    guess: ModuleType, tmp_path: Path, changes: Any
) -> None:
    """The reward model is made anew from where reinforcement began, and learns what it learned then."""
    recipe = guess.recipe(**changes)
    run = await train(recipe, run=tmp_path / "a")

    def rescored() -> list[tuple[int, TurnTable]]:
        return list(rescore(run.folder, recipe, recipe.env.make(), recipe.rollout.group, [1, 2]))

    again = await asyncio.to_thread(rescored)
    for step, table in again:
        lines = (run.folder / f"credit/step-{step:06d}.jsonl").read_text().splitlines()
        stored = {row["episode_id"]: row["columns"]["advantage"] for row in map(json.loads, lines)}
        anew = np.split(table.advantage, np.flatnonzero(table.first)[1:])
        for name, advantage in zip(table.names["episode_id"], anew, strict=True):
            assert stored[name] == pytest.approx(advantage.tolist(), abs=1e-4)
    assert np.abs(again[-1][1].advantage).max() > 0
    shutil.rmtree(run.folder / "checkpoints" / "000000")
    with pytest.raises(UsageError, match="lacks the checkpoint that its reinforcement began from"):
        await asyncio.to_thread(rescored)


async def test_a_reward_that_runs_away_stops_the_run_with_a_checkpoint(
    guess: ModuleType, tmp_path: Path
) -> None:
    reckless = [IMPLICIT["scorers"][0] | {"lr": 1e30, "score": "after_update"}]
    run = await train(guess.recipe(**IMPLICIT | {"scorers": reckless}), run=tmp_path / "a")
    assert "lower the reward model's lr" in run.summary.stopped
    assert (run.folder / "checkpoints" / "latest").read_text() == f"{run.summary.steps:06d}"


async def test_a_gradient_that_explodes_stops_the_run(guess: ModuleType, tmp_path: Path) -> None:
    run = await train(guess.recipe(guards={"grad_norm": 1e-6}), run=tmp_path / "a")
    assert "is above 1e-06 (guards.grad_norm)" in run.summary.stopped
    assert run.summary.steps == 0


@pytest.mark.usefixtures("fresh_registry")
def test_a_stage_that_gives_a_number_a_turn_where_tokens_are_meant_is_refused(lab: Any) -> None:
    @credit("wrong", scope="turn", provides=["token:advantage"])
    def wrong(t: TurnTable) -> dict[str, Any]:
        return {"token:advantage": np.zeros(len(t))}

    with pytest.raises(StageError, match="a number for each of 6 tokens; got"):
        lab.run("wrong", lab.table(lab.episode("a", "g", 1), lab.episode("b", "g", 1)))
