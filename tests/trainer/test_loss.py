"""The losses of the policy against arithmetic by hand and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from turnwise.trainer.loss import PolicyLoss, Ratio, clipped_policy_loss, regression_loss, weighted_loss


def loss_of(
    log_ratios: list[float],
    advantages: list[float],
    turns: list[int] | None = None,
    *,
    ratio: Ratio = "token",
    low: float = 0.2,
    high: float = 0.3,
    count: float = 1.0,
) -> PolicyLoss:
    """With old log-probabilities of -1."""
    old = torch.full((len(log_ratios),), -1.0, dtype=torch.float64)
    return clipped_policy_loss(
        old + torch.tensor(log_ratios, dtype=torch.float64),
        old,
        torch.tensor(advantages, dtype=torch.float64),
        torch.tensor(turns if turns is not None else [0] * len(log_ratios)),
        ratio=ratio,
        low=low,
        high=high,
        count=count,
    )


def test_on_policy_the_loss_is_minus_the_mean_advantage() -> None:
    result = loss_of([0.0, 0.0, 0.0], [1.0, 2.0, -6.0], count=3)
    assert result.loss.item() == pytest.approx(1.0)
    assert result.clipped.item() == 0.0
    assert result.kl.item() == 0.0


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "clipped"),
    [
        (1.5, 2.0, 1.3 * 2.0, 1.0),  # good and already likelier: no more than 1 + high
        (1.25, 2.0, 1.25 * 2.0, 0.0),  # beyond 1 + low, within 1 + high: the bounds are not symmetric
        (0.5, 2.0, 0.5 * 2.0, 0.0),  # good and less likely: pulled up without bound
        (0.5, -2.0, 0.8 * -2.0, 1.0),  # bad and already less likely: no less than 1 - low
        (1.5, -2.0, 1.5 * -2.0, 0.0),  # bad and likelier: pushed down without bound
    ],
)
def test_clipping_by_hand(ratio: float, advantage: float, gain: float, clipped: float) -> None:
    result = loss_of([math.log(ratio)], [advantage])
    assert result.loss.item() == pytest.approx(-gain)
    assert result.clipped.item() == clipped


def test_a_clipped_token_has_no_gradient() -> None:
    logprobs = torch.log(torch.tensor([1.5, 1.1])).requires_grad_()
    result = clipped_policy_loss(
        logprobs,
        torch.zeros(2),
        torch.ones(2),
        torch.zeros(2, dtype=torch.long),
        ratio="token",
        low=0.2,
        high=0.3,
        count=2.0,
    )
    (gradient,) = torch.autograd.grad(result.loss, logprobs)
    assert gradient.tolist() == pytest.approx([0.0, -1.1 / 2])


def test_a_turn_is_one_action() -> None:
    """Turn 0: ratio 1.2 * 1.5 = 1.8, clipped at 1.3. Turn 1: 0.5 * 2 = 1, though neither token is near 1."""
    log_ratios = [math.log(r) for r in (1.2, 0.5, 1.5, 2.0)]
    result = loss_of(log_ratios, [1.0, -1.0, 1.0, -1.0], [0, 1, 0, 1], ratio="turn", count=4)
    assert result.loss.item() == pytest.approx(-(1.3 + 1.3 - 1.0 - 1.0) / 4)
    assert result.clipped.item() == 0.5
    by_token = loss_of(log_ratios, [1.0, -1.0, 1.0, -1.0], count=4)
    assert by_token.loss.item() == pytest.approx(-(1.2 - 0.8 + 1.3 - 2.0) / 4)


def test_kl_is_the_k3_estimate() -> None:
    """Per token ratio - 1 - log ratio, whatever the kind of ratio; never negative."""
    ratios = [2.0, 0.5, 1.0]
    expected = np.mean([r - 1 - math.log(r) for r in ratios])
    for kind in ("token", "turn"):
        result = loss_of([math.log(r) for r in ratios], [1.0] * 3, [0, 0, 1], ratio=kind)
        assert result.kl.item() == pytest.approx(expected)


BATCH = st.lists(
    st.tuples(st.floats(-1.5, 1.5), st.floats(-3, 3), st.integers(0, 3)), min_size=1, max_size=12
)


@given(BATCH, st.sampled_from(["token", "turn"]), st.floats(0.05, 0.9), st.floats(0.05, 2.0))
def test_against_a_plain_loop(
    batch: list[tuple[float, float, int]], ratio: Ratio, low: float, high: float
) -> None:
    total = clipped = 0.0
    for log_ratio, advantage, turn in batch:
        of_turn = sum(other for other, _, its in batch if its == turn)
        r = math.exp(log_ratio if ratio == "token" else of_turn)
        bounded = min(max(r, 1 - low), 1 + high)
        total += min(r * advantage, bounded * advantage)
        clipped += r * advantage > bounded * advantage
    log_ratios, advantages, turns = (list(column) for column in zip(*batch, strict=True))
    result = loss_of(log_ratios, advantages, turns, ratio=ratio, low=low, high=high, count=7.0)
    assert result.loss.item() == pytest.approx(-total / 7.0, abs=1e-12, rel=1e-9)
    assert result.clipped.item() == pytest.approx(clipped / len(batch), abs=1e-6)


@given(BATCH, st.integers(0, 12), st.sampled_from(["token", "turn"]))
def test_parts_add_up_when_no_turn_is_divided(
    batch: list[tuple[float, float, int]], cut: int, ratio: Ratio
) -> None:
    """Each part divided by the tokens of the whole: a token weighs the same in any part."""
    ordered = sorted(batch, key=lambda entry: entry[2])
    edge = next((i for i in range(cut, len(ordered)) if ordered[i][2] != ordered[i - 1][2]), len(ordered))
    count = float(len(batch))

    def part(entries: list[tuple[float, float, int]]) -> float:
        if not entries:
            return 0.0
        log_ratios, advantages, turns = (list(column) for column in zip(*entries, strict=True))
        return loss_of(log_ratios, advantages, turns, ratio=ratio, count=count).loss.item()

    assert part(ordered[:edge]) + part(ordered[edge:]) == pytest.approx(part(ordered), abs=1e-9, rel=1e-9)


# ---------------------------------------------------------------- regression


def regression_of(
    log_ratios: list[float],
    advantages: list[float],
    turns: list[int],
    *,
    ratio: Ratio = "turn",
    beta: float = 1.0,
    count: float = 1.0,
) -> PolicyLoss:
    """With old log-probabilities of -1."""
    old = torch.full((len(log_ratios),), -1.0, dtype=torch.float64)
    return regression_loss(
        old + torch.tensor(log_ratios, dtype=torch.float64),
        old,
        torch.tensor(advantages, dtype=torch.float64),
        torch.tensor(turns),
        ratio=ratio,
        beta=beta,
        count=count,
    )


def test_regression_by_hand() -> None:
    """Turn 0: log-ratio 0.5 + 0.25, so (0.5 * 0.75 - 2)^2; turn 1: (0.5 * -1 + 3)^2."""
    batch = ([0.5, -1.0, 0.25], [2.0, -3.0, 2.0], [0, 1, 0])
    by_turn = regression_of(*batch, beta=0.5, count=2)
    assert by_turn.loss.item() == pytest.approx((1.625**2 + 2.5**2) / 2)
    assert by_turn.clipped.item() == 0.0
    by_token = regression_of(*batch, ratio="token", beta=0.5, count=3)
    assert by_token.loss.item() == pytest.approx((1.75**2 + 2.5**2 + 1.875**2) / 3)
    assert by_token.kl.item() == by_turn.kl.item() > 0


@given(st.lists(st.tuples(st.floats(-3, 3), st.integers(0, 3)), min_size=1, max_size=12), st.floats(0.1, 3))
def test_on_policy_all_losses_go_the_way_of_the_policy_gradient(
    batch: list[tuple[float, int]], beta: float
) -> None:
    """At ratio 1 the gradient of the clipped loss is -A a token; regression's is 2 beta times that. The
    weighted loss's differs by a constant, to first order in A."""
    by_turn = {turn: advantage for advantage, turn in batch}  # one advantage a turn
    turns = torch.tensor([turn for _, turn in batch])
    advantages = torch.tensor([by_turn[turn] for _, turn in batch], dtype=torch.float64)
    old = torch.full_like(advantages, -1.0)
    logprobs = old.clone().requires_grad_()
    kinds: tuple[Ratio, ...] = ("token", "turn")
    for kind in kinds:
        loss = regression_loss(logprobs, old, advantages, turns, ratio=kind, beta=beta, count=1).loss
        (gradient,) = torch.autograd.grad(loss, logprobs)
        assert torch.allclose(gradient, -2 * beta * advantages)
    small = 1e-4 * advantages
    loss = weighted_loss(logprobs, old, small, beta=beta, cap=20.0, count=1).loss
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert torch.allclose(gradient, -1 - small / beta, atol=1e-5)


@given(st.floats(-3, 3), st.floats(0.1, 3), st.integers(1, 4))
def test_regression_is_at_rest_where_the_log_ratio_is_the_advantage_over_beta(
    advantage: float, beta: float, tokens: int
) -> None:
    """Where the clipped loss would push on to its bound and the weighted one for ever."""
    share = advantage / beta / tokens
    result = regression_of([share] * tokens, [advantage] * tokens, [0] * tokens, beta=beta)
    assert result.loss.item() == pytest.approx(0.0, abs=1e-9)


@given(BATCH, st.sampled_from(["token", "turn"]), st.floats(0.1, 3.0))
def test_regression_against_a_plain_loop(
    batch: list[tuple[float, float, int]], ratio: Ratio, beta: float
) -> None:
    actions = [[entry] for entry in batch]
    if ratio == "turn":
        actions = [[e for e in batch if e[2] == turn] for turn in sorted({e[2] for e in batch})]
    expected = sum((beta * sum(r for r, _, _ in a) - np.mean([v for _, v, _ in a])) ** 2 for a in actions)
    log_ratios, advantages, turns = (list(column) for column in zip(*batch, strict=True))
    places = {
        turn: number for number, turn in enumerate(sorted(set(turns)))
    }  # numbered from 0, as in a batch
    result = regression_of(
        log_ratios, advantages, [places[t] for t in turns], ratio=ratio, beta=beta, count=7.0
    )
    assert result.loss.item() == pytest.approx(expected / 7.0, abs=1e-12, rel=1e-9)


# ---------------------------------------------------------------- weighted


def test_weights_by_hand() -> None:
    """exp(A / beta) with beta 0.5: e^2, e^-2, and e^8, which the cap makes 20."""
    logprobs = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64)
    result = weighted_loss(
        logprobs,
        logprobs,
        torch.tensor([1.0, -1.0, 4.0], dtype=torch.float64),
        beta=0.5,
        cap=20.0,
        count=3.0,
    )
    assert result.loss.item() == pytest.approx((math.exp(2) + 2 * math.exp(-2) + 60) / 3)
    assert result.clipped.item() == pytest.approx(1 / 3)
    assert result.kl.item() == 0.0


def test_an_advantage_too_large_for_exp_weighs_the_cap() -> None:
    logprobs = torch.tensor([-1.0]).requires_grad_()
    loss = weighted_loss(logprobs, logprobs, torch.tensor([1e4]), beta=1.0, cap=20.0, count=1.0).loss
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert (loss.item(), gradient.item()) == (20.0, -20.0)
