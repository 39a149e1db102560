"""Intervals, pass@k, majority and comparisons, against tables, enumeration and simulation."""

from __future__ import annotations

import itertools
import math
import random
from statistics import NormalDist, fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo.evaluation.statistics import (
    compare,
    holm,
    majority,
    mean_interval,
    pass_at,
    sampling_error,
    sign_flip_p,
    t_cdf,
    t_quantile,
)

# Of any printed table of Student's t: degrees of freedom, 0.95 and 0.975 quantile.
TABLE = [
    (1, 6.3138, 12.7062),
    (2, 2.9200, 4.3027),
    (3, 2.3534, 3.1824),
    (5, 2.0150, 2.5706),
    (10, 1.8125, 2.2281),
    (29, 1.6991, 2.0452),
    (60, 1.6706, 2.0003),
    (120, 1.6577, 1.9799),
]


@pytest.mark.parametrize(("freedom", "at_95", "at_975"), TABLE)
def test_t_quantiles_are_those_of_the_tables(freedom: int, at_95: float, at_975: float) -> None:
    assert t_quantile(0.95, freedom) == pytest.approx(at_95, abs=6e-5)
    assert t_quantile(0.975, freedom) == pytest.approx(at_975, abs=6e-5)


@given(st.integers(1, 60), st.floats(0.0, 40.0))
def test_the_t_distribution_is_the_integral_of_its_density(freedom: int, t: float) -> None:
    constant = math.gamma((freedom + 1) / 2) / (
        math.sqrt(freedom * math.pi) * math.gamma(freedom / 2)
    )
    parts = 2000
    # Simpson's rule
    density = [
        constant * (1 + (i * t / parts) ** 2 / freedom) ** (-(freedom + 1) / 2)
        for i in range(parts + 1)
    ]
    area = density[0] + density[-1] + 4 * sum(density[1:-1:2]) + 2 * sum(density[2:-1:2])
    assert t_cdf(t, freedom) == pytest.approx(0.5 + area * t / parts / 3, abs=1e-6)


def test_many_degrees_of_freedom_are_the_normal_distribution() -> None:
    assert t_quantile(0.975, 5_000) == pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-3)


@pytest.mark.parametrize("spread", [(0.5, 0.5), (0.3, 0.7)])
def test_95_percent_intervals_hold_the_truth_in_95_percent(spread: tuple[float, float]) -> None:
    """30 problems of which each is right with its own chance, 16 samples each, as an AIME is."""
    rng = random.Random(0)
    truth = spread[0] / sum(spread)
    runs, held, naive = 4_000, 0, 0
    for _ in range(runs):
        chances = [rng.betavariate(*spread) for _ in range(30)]
        means = [sum(rng.random() < chance for _ in range(16)) / 16 for chance in chances]
        interval = mean_interval(means)
        assert interval.low is not None
        assert interval.high is not None
        held += interval.low <= truth <= interval.high
        binomial = 1.96 * math.sqrt(interval.mean * (1 - interval.mean) / (30 * 16))
        naive += abs(interval.mean - truth) <= binomial
    assert 0.93 <= held / runs <= 0.97
    assert naive / runs < 0.6  # why the samples of a problem are averaged first


def test_an_interval_by_hand() -> None:
    interval = mean_interval([0.0, 0.5, 1.0])
    assert interval.mean == 0.5
    assert interval.se == pytest.approx(0.5 / math.sqrt(3))
    assert interval.half_width == pytest.approx(4.3027 * 0.5 / math.sqrt(3), rel=1e-4)


def test_one_problem_has_no_interval_and_none_no_score() -> None:
    alone = mean_interval([0.25])
    assert (alone.mean, alone.se, alone.low, alone.half_width) == (0.25, None, None, None)
    with pytest.raises(ValueError, match="nothing"):
        mean_interval([])


def test_the_sampling_error_is_what_another_draw_moves() -> None:
    rng = random.Random(1)
    chances = [rng.random() for _ in range(30)]

    def draw() -> list[list[float]]:
        return [[float(rng.random() < chance) for _ in range(16)] for chance in chances]

    scores = [fmean(fmean(own) for own in draw()) for _ in range(2_000)]
    centre = fmean(scores)
    seen = math.sqrt(fmean((score - centre) ** 2 for score in scores))
    said = fmean(sampling_error(draw()) or 0.0 for _ in range(200))
    assert said == pytest.approx(seen, rel=0.1)


def test_one_sample_tells_nothing_of_sampling() -> None:
    assert sampling_error([[1.0, 0.0], [1.0]]) is None
    assert sampling_error([]) is None


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_draws_with_one_right(samples: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    scored = [i < right for i in range(samples)]
    draws = [any(draw) for draw in itertools.combinations(scored, k)]
    assert pass_at(k, samples, right) == pytest.approx(fmean(draws))


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(ValueError, match="pass@5"):
        pass_at(5, 4, 1)


@pytest.mark.parametrize(
    ("answers", "score"),
    [
        ([("4", 1.0), ("4", 1.0), ("5", 0.0)], 1.0),
        ([("5", 0.0), ("5", 0.0), ("4", 1.0)], 0.0),
        ([("4", 1.0), ("5", 0.0)], 0.5),
        ([(None, 0.0), (None, 0.0), ("4", 1.0)], 1.0),
        ([(None, 0.0)], 0.0),
    ],
)
def test_the_majority_by_hand(answers: list[tuple[str | None, float]], score: float) -> None:
    assert majority(answers) == score


def test_the_p_value_is_that_of_all_sign_flips() -> None:
    rng = random.Random(2)
    for _ in range(5):
        differences = [rng.randint(-4, 6) / 4 for _ in range(9)]
        observed = abs(sum(differences))
        signs = itertools.product((-1, 1), repeat=9)
        flips = [
            abs(sum(s * d for s, d in zip(each, differences, strict=True))) >= observed
            for each in signs
        ]
        assert sign_flip_p(differences) == pytest.approx(fmean(flips), abs=0.012)


def test_equal_models_are_found_different_as_rarely_as_p_says() -> None:
    rng = random.Random(3)
    found = 0
    for _ in range(200):
        differences = [rng.choice((-0.25, 0.0, 0.25)) for _ in range(30)]
        found += sign_flip_p(differences, flips=400, seed=rng.getrandbits(30)) <= 0.1
    assert 0.03 <= found / 200 <= 0.18


def test_no_difference_has_p_one_and_no_p_is_zero() -> None:
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert 0.0 < sign_flip_p([1.0] * 60) < 1e-4


def test_a_comparison_is_paired() -> None:
    """Hard and easy problems make both models' own intervals wide; their difference is steady."""
    easy = {f"easy{i}": 0.9 for i in range(15)}
    hard = {f"hard{i}": 0.1 for i in range(15)}
    first = easy | hard
    second = {
        key: value + (0.05 if i % 2 else 0.04) for i, (key, value) in enumerate(first.items())
    }
    compared = compare(first, second)
    assert compared.difference.mean == pytest.approx(0.045, abs=1e-3)
    assert compared.difference.half_width is not None
    assert compared.difference.half_width < 0.003
    assert compared.p < 0.001
    own = mean_interval(list(first.values())).half_width
    assert own is not None
    assert own > 0.1
    backwards = compare(second, first)
    assert backwards.difference.mean == pytest.approx(-compared.difference.mean)
    assert backwards.p == compared.p


def test_other_problems_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same problems"):
        compare({"a": 1.0}, {"b": 1.0})


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


@settings(max_examples=200)
@given(st.dictionaries(st.text(max_size=3), st.floats(0.0, 1.0), max_size=8))
def test_holm_keeps_the_order_and_only_raises(p_values: dict[str, float]) -> None:
    adjusted = holm(p_values)
    assert list(adjusted) == list(p_values)
    for one, other in itertools.combinations(p_values, 2):
        if p_values[one] < p_values[other]:
            assert adjusted[one] <= adjusted[other]
    assert all(p_values[name] <= p <= 1.0 for name, p in adjusted.items())
