"""The update against a plain loop over tokens: what gets gradient, how much, and when it is refused.

Where a gradient is compared the optimiser is plain gradient descent at rate 1, so the change of the
weights is the gradient.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from turnwise.agents.renderer import CompactRenderer
from turnwise.agents.rollout import RolloutPlan, rollout
from turnwise.agents.tokenizer import build_tokenizer
from turnwise.agents.torch import Engine, init_model, sequence_logprobs
from turnwise.agents.torch_policy import TorchPolicy
from turnwise.agents.trajectory import Episode, Sampling, Span
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.trainer.learner import DivergedError, Learner, UpdateStats
from turnwise.trainer.recipe import ClipLoss, LossSection, Optimizer, RegressionLoss, WeightedLoss
from turnwise.trainer.table import TurnTable

NO_LIMIT = math.inf


@pytest.fixture(scope="module")
def fresh(lab: SimpleNamespace) -> Callable[[], PreTrainedModel]:
    """A small model with the same random weights every time."""
    model = init_model(lab.small_model, seed=1, device="cpu")
    return lambda: copy.deepcopy(model)


def plain_learner(model: PreTrainedModel, loss: LossSection | None = None, **settings: int) -> Learner:
    learner = Learner(model, Optimizer(grad_clip=1e9, **{"minibatch": 100, **settings}), loss or ClipLoss())
    learner.optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return learner


def update(
    learner: Learner, table: TurnTable, *, temperature: float = 1.0, max_gap: float = NO_LIMIT
) -> tuple[UpdateStats, Tensor]:
    """The statistics, and the weights' change with its sign turned: the gradient."""
    before = weights(learner.model)
    stats = learner.update(table, temperature=temperature, seed=(0, 1), max_gap=max_gap)
    return stats, before - weights(learner.model)


def weights(model: PreTrainedModel) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def sampled(lab: SimpleNamespace, model: PreTrainedModel, shift: float = 0.0) -> TurnTable:
    """Episodes of one to four turns whose log-probabilities are the model's own, but for noise of this
    size, with advantages at random."""
    rng = np.random.default_rng(3)
    episodes = []
    for name, turns in (("a", 3), ("b", 1), ("c", 4), ("d", 2)):
        ids: list[int] = []
        made = []
        for index in range(turns):
            seen = tuple(rng.integers(0, 32, rng.integers(1, 4)).tolist())
            written = tuple(rng.integers(0, 32, rng.integers(1, 5)).tolist())
            ids += [*seen, *written]
            with torch.no_grad():
                exact = sequence_logprobs(model, torch.tensor([ids]))[0, -len(written) :]
            noise = rng.normal(size=len(written)) * shift
            logprobs = tuple((exact.double().numpy() + noise).tolist())
            span = Span(written, "policy", "learner", logprobs, versions=(0,) * len(written))
            made.append(lab.turn(name, "g", index, spans=(Span(seen, "env"), span)))
        episodes.append(lab.episode(name, "g", made))
    table: TurnTable = lab.table(*episodes)
    return table.with_columns({"advantage": rng.normal(size=len(table))})


def reference_gradient(
    model: PreTrainedModel, table: TurnTable, loss: ClipLoss, temperature: float = 1.0
) -> tuple[float, Tensor]:
    """The loss and its gradient, token by token, one unpadded sequence at a time."""
    total, count = torch.zeros(()), int(table.tokens.trainable.sum())
    tokens, turn = table.tokens, table.tokens.row
    for episode in range(table.episodes):
        rows = np.flatnonzero(table.episode_id == episode)
        places = np.arange(table.tokens.start[rows[0]], table.tokens.stop[rows[-1]])
        logits = model(torch.tensor(tokens.ids[places])[None]).logits[0] / temperature
        ratios: dict[int, list[Tensor]] = {}
        for k, place in enumerate(places):
            if tokens.trainable[place]:
                logprob = logits[k - 1].log_softmax(-1)[int(tokens.ids[place])]
                ratios.setdefault(int(turn[place]), []).append((logprob - tokens.logprobs[place]).exp())
        for row, of_turn in ratios.items():
            advantage = float(table["advantage"][row])
            for own in of_turn:
                ratio = own if loss.ratio == "token" else torch.stack(of_turn).prod()
                bounded = ratio.clamp(1 - loss.low, 1 + loss.high)
                total = total - torch.minimum(ratio * advantage, bounded * advantage) / count
    gradients = torch.autograd.grad(total, list(model.parameters()))
    return total.item(), torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("ratio", ["token", "turn"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_update_against_a_plain_loop(
    lab: SimpleNamespace, fresh: Callable[[], PreTrainedModel], ratio: str, temperature: float
) -> None:
    loss = ClipLoss.model_validate({"ratio": ratio, "low": 0.1, "high": 0.15})
    table = sampled(lab, fresh(), shift=0.2)
    stats, gradient = update(plain_learner(fresh(), loss), table, temperature=temperature)
    total, expected = reference_gradient(fresh(), table, loss, temperature)
    assert stats.loss == pytest.approx(total, abs=1e-6)
    assert torch.allclose(gradient, expected, atol=1e-6)
    assert stats.grad_norm == pytest.approx(float(expected.norm()), rel=1e-4)
    assert 0 < stats.clipped < 1
    assert stats.kl > 0


@pytest.mark.parametrize(
    "loss",
    [
        RegressionLoss(beta=0.5),
        RegressionLoss(beta=0.5, ratio="token"),
        WeightedLoss(beta=0.5, cap=2.0),
    ],
)
def test_regression_and_weights_against_a_plain_loop(
    lab: SimpleNamespace, fresh: Callable[[], PreTrainedModel], loss: RegressionLoss | WeightedLoss
) -> None:
    """An advantage of 0 is a target, or a weight of 1: an episode of nothing else has a gradient too. One
    sequence at a time is the same as all at once."""
    table = sampled(lab, fresh(), shift=0.2)
    table = table.with_columns({"advantage": np.where(table.episode_id == 2, 0.0, table["advantage"])})
    model = fresh()
    tokens, terms = table.tokens, []
    for row in range(len(table)):
        first = int(tokens.start[row - int(table.index[row])])
        ids = torch.tensor(tokens.ids[first : tokens.stop[row]])
        written = np.flatnonzero(tokens.trainable[first : tokens.stop[row]])
        written = written[written >= tokens.start[row] - first]
        logprobs = sequence_logprobs(model, ids[None])[0, written - 1]
        log_ratio = logprobs - torch.tensor(tokens.logprobs[first + written])
        advantage = float(table["advantage"][row])
        match loss:
            case RegressionLoss(ratio="turn"):
                terms.append((0.5 * log_ratio.sum() - advantage)[None] ** 2)
            case RegressionLoss():
                terms.append((0.5 * log_ratio - advantage) ** 2)
            case WeightedLoss():
                terms.append(-min(math.exp(advantage / 0.5), 2.0) * logprobs)
    total = torch.cat(terms).mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(total, list(model.parameters()))])
    for places in (1, 10_000):
        stats, gradient = update(plain_learner(fresh(), loss, max_tokens=places), table)
        assert stats.loss == pytest.approx(total.item(), rel=1e-5)
        assert torch.allclose(gradient, expected, atol=1e-5, rtol=1e-4)
        assert (stats.clipped > 0) == isinstance(loss, WeightedLoss)
        assert stats.tokens == tokens.trainable.sum()


def test_dividing_a_minibatch_does_not_change_the_gradient(
    lab: SimpleNamespace, fresh: Callable[[], PreTrainedModel]
) -> None:
    """One sequence at a time, two at a time, all padded to the longest: the same but for rounding."""
    table = sampled(lab, fresh(), shift=0.2)
    results = [update(plain_learner(fresh(), max_tokens=places), table) for places in (1, 30, 10_000)]
    (whole, gradient), others = results[-1], results[:-1]
    for stats, divided in others:
        assert torch.allclose(divided, gradient, atol=1e-6)
        assert stats.tokens == whole.tokens
        for name in ("loss", "clipped", "kl", "gap", "grad_norm"):
            assert getattr(stats, name) == pytest.approx(getattr(whole, name), rel=1e-5, abs=1e-6)


def test_one_turns_advantage_trains_that_turns_tokens(
    lab: SimpleNamespace, fresh: Callable[[], PreTrainedModel]
) -> None:
    """The gradient is that of the turn's own log-probabilities, over the tokens of its sequence."""
    model = fresh()
    table = sampled(lab, model)
    (row,) = np.flatnonzero((table.episode_id == 2) & (table.index == 2))
    alone = np.zeros(len(table))
    alone[row] = 5.0
    _, gradient = update(plain_learner(fresh()), table.with_columns({"advantage": alone}))

    rows = np.flatnonzero(table.episode_id == 2)
    first, last = int(table.tokens.start[rows[0]]), int(table.tokens.stop[rows[-1]])
    trainable = table.tokens.trainable[first:last]
    of_turn = trainable & (table.tokens.row[first:last] == row)
    logprobs = sequence_logprobs(model, torch.tensor(table.tokens.ids[first:last])[None])[0]
    objective = logprobs[torch.from_numpy(of_turn[1:])].sum() * 5.0 / int(trainable.sum())
    gradients = torch.autograd.grad(objective, list(model.parameters()))
    expected = -torch.cat([g.flatten() for g in gradients])
    assert 0 < of_turn.sum() < trainable.sum()
    assert float(expected.norm()) > 0.01
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_what_the_tokens_of_a_turn_without_advantage_were_changes_nothing(
    lab: SimpleNamespace, fresh: Callable[[], PreTrainedModel]
) -> None:
    """The last turn of a sequence, seen by no other token: with advantage 0 its tokens may be any."""

    def table(written: int) -> TurnTable:
        turns = [
            lab.turn("a", "g", 0),
            lab.turn("a", "g", 1, spans=(lab.env_span(1), lab.policy_span(written))),
        ]
        made: TurnTable = lab.table(lab.episode("a", "g", turns))
        return made.with_columns({"advantage": np.array([1.0, 0.0])})

    (_, one), (_, other) = (update(plain_learner(fresh()), table(written)) for written in (5, 6))
    assert float(one.norm()) > 0
    assert torch.equal(one, other)


def test_statistics(lab: SimpleNamespace, fresh: Callable[[], PreTrainedModel]) -> None:
    exact = sampled(lab, fresh())
    tokens = int(exact.tokens.trainable.sum())
    stats, _ = update(plain_learner(fresh()), exact)
    assert stats.gap < 1e-6
    assert (stats.clipped, stats.tokens, stats.optimizer_steps) == (0, tokens, 1)
    stats, _ = update(plain_learner(fresh(), minibatch=3, epochs=2), exact)
    assert stats.gap < 1e-6, "of before the first step"
    assert (stats.tokens, stats.optimizer_steps) == (2 * tokens, 4)
    off = exact.tokens.logprobs - np.float32(0.25)
    shifted = TurnTable(
        exact.columns,
        exact.episode_group,
        exact.names,
        tokens=type(exact.tokens)(
            **{name: getattr(exact.tokens, name) for name in exact.tokens.__slots__} | {"logprobs": off}
        ),
    )
    stats, _ = update(plain_learner(fresh()), shifted)
    assert stats.gap == pytest.approx(0.25, abs=1e-5)
    assert stats.kl == pytest.approx(math.exp(0.25) - 1.25, abs=1e-5)


def test_nothing_to_learn_changes_nothing(lab: SimpleNamespace, fresh: Callable[[], PreTrainedModel]) -> None:
    table = sampled(lab, fresh())
    stats, gradient = update(plain_learner(fresh()), table.with_columns({"advantage": np.zeros(len(table))}))
    assert stats == UpdateStats()
    assert not gradient.any()


def test_the_same_seed_gives_the_same_weights(
    lab: SimpleNamespace, fresh: Callable[[], PreTrainedModel]
) -> None:
    def trained(seed: int) -> Tensor:
        learner = Learner(fresh(), Optimizer(minibatch=1), ClipLoss())
        learner.update(sampled(lab, fresh()), temperature=1.0, seed=(seed, 1), max_gap=1.0)
        return weights(learner.model)

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))


def test_weights_out_of_step_are_noticed_before_the_first_step(
    lab: SimpleNamespace, fresh: Callable[[], PreTrainedModel]
) -> None:
    learner = plain_learner(fresh())
    before = weights(learner.model)
    with pytest.raises(DivergedError, match=r"guards\.logprob_gap is 0\.1"):
        update(learner, sampled(lab, fresh(), shift=1.0), max_gap=0.1)
    assert torch.equal(weights(learner.model), before)


def test_a_step_that_is_not_finite_is_not_taken(
    lab: SimpleNamespace, fresh: Callable[[], PreTrainedModel]
) -> None:
    """A reward whose square is beyond float32: the error comes before weights or optimiser have changed."""
    table = sampled(lab, fresh())
    learner = Learner(fresh(), Optimizer(), ClipLoss())
    before = weights(learner.model)
    with pytest.raises(DivergedError, match=r"loss .*(nan|inf).*: lower optimizer\.lr"):
        update(learner, table.with_columns({"advantage": table["advantage"] * 1e30}))
    assert torch.equal(weights(learner.model), before)
    assert not learner.optimizer.state


# ---------------------------------------------------------------- exact tokens, end to end


@pytest.fixture
async def played(guess: ModuleType, tmp_path: Path) -> tuple[PreTrainedModel, list[Episode]]:
    """Real episodes of a model that writes anything."""
    renderer = CompactRenderer(build_tokenizer(["guess submit yes higher lower 1 2 3 4 word error:"] * 2))
    model = init_model(
        {
            "model_type": "qwen3",
            "vocab_size": len(renderer.tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "intermediate_size": 64,
            "max_position_embeddings": 128,
            "initializer_range": 0.3,
        },
        seed=0,
        device="cpu",
    )
    spec = EnvSpec(name="test/guess", options={"talk": 3})
    plan = RolloutPlan(spec.make().task_set("train")[:8], group_size=4, seed=5, label="x")
    async with LocalEnvs() as envs, Engine(model) as engine:
        policy = TorchPolicy(engine, renderer, sampling=Sampling(temperature=0.7, max_tokens=5))
        return model, await rollout(envs, spec, policy, plan)


def test_the_training_forward_agrees_with_what_was_sampled(
    played: tuple[PreTrainedModel, list[Episode]], guess: ModuleType
) -> None:
    """Every sampled token of every turn, to 1e-4; and the learner, which pads and divides, sees no gap."""
    model, episodes = played
    assert min(len(episode.turns) for episode in episodes) >= 3
    for episode in episodes:
        spans = [span for turn in episode.turns for span in turn.spans]
        ids = torch.tensor([[i for span in spans for i in span.ids]])
        recorded = [x for s in spans for x in s.logprobs or [math.nan] * len(s.ids)][1:]
        with torch.no_grad():
            logprobs = sequence_logprobs(model, ids, temperature=0.7)[0]
        difference = np.abs(logprobs.numpy() - recorded)
        assert np.isfinite(difference).sum() == episode.sampled_tokens
        assert np.nanmax(difference) < 1e-4
    table = TurnTable.from_episodes(episodes, guess.Guess.milestone_names(), guess.Guess.channels())
    table = table.with_columns({"advantage": np.ones(len(table))})
    stats, _ = update(plain_learner(copy.deepcopy(model), max_tokens=300), table, temperature=0.7)
    assert stats.tokens == sum(episode.sampled_tokens for episode in episodes)
    assert stats.gap < 1e-5
    wrong, _ = update(plain_learner(copy.deepcopy(model)), table, temperature=1.0)
    assert wrong.gap > 1e-2
