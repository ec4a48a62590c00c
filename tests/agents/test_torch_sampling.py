"""Tokens are drawn from the distribution their log-probabilities describe."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from turnwise.agents.torch.sampling import draw, uniforms


def reference(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """The filtered distribution, spelled out."""
    scaled = [x / temperature for x in logits]
    order = sorted(range(len(scaled)), key=lambda i: -scaled[i])[: top_k or None]
    weights = {i: math.exp(scaled[i] - max(scaled)) for i in order}
    kept, mass = [], 0.0
    for i in order:
        if mass < top_p * sum(weights.values()):
            kept.append(i)
        mass += weights[i]
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(logits))]


def drawn(
    logits: torch.Tensor, uniform: np.ndarray[tuple[int], np.dtype[np.float64]], t: float, k: int, p: float
) -> tuple[list[int], list[float]]:
    n = len(uniform)
    tokens, logprobs = draw(logits.expand(n, -1), uniform, np.full(n, t), np.full(n, k), np.full(n, p))
    return tokens.tolist(), logprobs.tolist()


@given(
    logits=st.lists(st.integers(-40, 40), min_size=2, max_size=30, unique=True),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.integers(0, 30),
    top_p=st.sampled_from([0.05, 0.5, 0.93, 1.0]),
)
def test_the_inverse_of_the_filtered_distribution_function(
    logits: list[int], temperature: float, top_k: int, top_p: float
) -> None:
    scaled = [x / 10 for x in logits]
    expected = reference(scaled, temperature, top_k, top_p)
    grid = (np.arange(500) + 0.5) / 500
    tokens, logprobs = drawn(torch.tensor([scaled]), grid, temperature, top_k, top_p)
    counts = np.bincount(tokens, minlength=len(logits)) / len(grid)
    assert np.abs(np.array(counts) - expected).max() <= 1.01 / 500 + 1e-4
    for token, logprob in zip(tokens, logprobs, strict=True):
        assert expected[token] > 0
        assert logprob == pytest.approx(math.log(expected[token]), abs=1e-4)


@pytest.mark.parametrize("uniform", [2.0**-53, 1 - 2.0**-53])
@pytest.mark.parametrize("tail", [-1e4, -math.inf])
def test_a_token_of_probability_zero_is_never_drawn(uniform: float, tail: float) -> None:
    for hole in ([0, 1], [98, 99], [0, 99]):
        logits = torch.randn(1, 100, generator=torch.Generator().manual_seed(1))
        logits[0, hole] = tail
        (token,), (logprob,) = drawn(logits, np.array([uniform]), 1.0, 0, 1.0)
        assert token not in hole
        assert math.isfinite(logprob)


def test_top_p_keeps_no_token_beyond_the_mass_it_names() -> None:
    tokens, logprobs = drawn(torch.zeros(1, 2), np.array([0.1, 0.9]), 1.0, 0, 0.5)
    assert (tokens, logprobs) == ([0, 0], [0.0, 0.0])


def test_a_row_that_is_not_finite_has_no_finite_logprob() -> None:
    logits = torch.zeros(4, 5)
    logits[0, 2], logits[1, 2], logits[2] = math.nan, math.inf, -math.inf
    ones = np.ones(4)
    _, logprobs = draw(logits, ones / 2, ones, np.zeros(4, dtype=np.int64), ones)
    assert np.isfinite(logprobs).tolist() == [False, False, False, True]


def test_rows_of_a_batch_keep_their_own_settings() -> None:
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    uniform = np.linspace(0.1, 0.9, 6)
    temperature = np.array([1.0, 0.5, 0.0, 1.0, 2.0, 1.0])
    top_k, top_p = np.array([0, 3, 0, 5, 0, 0]), np.array([1.0, 1.0, 1.0, 0.6, 0.8, 1.0])
    tokens, logprobs = draw(logits, uniform, temperature, top_k, top_p)
    for i in range(6):
        row = slice(i, i + 1)
        token, logprob = draw(logits[row], uniform[row], temperature[row], top_k[row], top_p[row])
        assert tokens[i] == token[0]
        assert logprobs[i] == logprob[0]
    assert tokens[2] == int(logits[2].argmax())


def test_uniforms_depend_on_seed_and_position_alone() -> None:
    seeds, positions = np.meshgrid(np.arange(200, dtype=np.uint64), np.arange(500))
    values = uniforms(seeds.ravel(), positions.ravel())
    assert values.min() > 0
    assert values.max() < 1
    assert len(np.unique(values)) == values.size
    again = uniforms(seeds.ravel()[777:778], positions.ravel()[777:778])
    assert again[0] == values[777]
    grid = values.reshape(500, 200)
    assert abs(values.mean() - 0.5) < 0.003
    histogram = np.histogram(values, bins=20, range=(0, 1))[0]
    assert np.abs(histogram / values.size - 0.05).max() < 0.003
    for neighbours in ((grid[1:], grid[:-1]), (grid[:, 1:], grid[:, :-1])):
        assert abs(np.corrcoef(neighbours[0].ravel(), neighbours[1].ravel())[0, 1]) < 0.01
