"""Scores with intervals, and comparisons of two models on the same problems. Pure.

The unit is the problem. Problem i has the mean x_i of its samples' scores, the score of a set is
the mean of the x_i, and its interval is Student's t over the problems. With the samples of a
problem averaged first this is the clustered standard error (Miller 2024, arXiv 2411.00640, §2.2):
it holds the spread of the problems and that of the samples. An interval that takes all samples for
independent covers the truth in half of all cases only.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, stdev

CONFIDENCE = 0.95
FLIPS = 20_000
"""Random sign flips of a comparison: p values come in steps of 1 / (FLIPS + 1)."""
_BISECTIONS = 60


@dataclass(frozen=True)
class Interval:
    """A mean over `n` units with its standard error and the bounds of its 95 % interval.

    `se` and the bounds are None for a single unit, which tells nothing of its spread.
    """

    mean: float
    n: int
    se: float | None
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float | None:
        return None if self.high is None else self.high - self.mean


def mean_interval(units: Sequence[float]) -> Interval:
    """The mean of independent units and its 95 % t interval with n - 1 degrees of freedom.

    Raises `ValueError` without units.
    """
    if not units:
        raise ValueError("a mean of nothing has no value")
    mean, n = fmean(units), len(units)
    if n == 1:
        return Interval(mean, n, None, None, None)
    se = stdev(units, mean) / math.sqrt(n)
    reach = t_quantile(0.5 + CONFIDENCE / 2, n - 1) * se
    return Interval(mean, n, se, mean - reach, mean + reach)


def sampling_error(problems: Sequence[Sequence[float]]) -> float | None:
    """How far another draw of samples for these very problems would move the score: its standard
    error, from the spread within problems alone. None where a problem has a single sample.
    """
    if not problems or any(len(samples) < 2 for samples in problems):
        return None
    variances = (stdev(samples) ** 2 / len(samples) for samples in problems)
    return math.sqrt(sum(variances)) / len(problems)


def pass_at(k: int, samples: int, right: int) -> float:
    """The unbiased chance that one of k samples is right, of `samples` drawn (Chen et al. 2021,
    arXiv 2107.03374, equation 1). Raises `ValueError` for k above `samples`.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, not {samples}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def majority(answers: Sequence[tuple[Hashable | None, float]]) -> float:
    """The score of the answer that most samples state; equal counts share it evenly.

    `answers` holds what each sample states, None for nothing (which casts no vote), and its score.
    """
    votes = Counter(stated for stated, _ in answers if stated is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    scores = dict(answers)
    return fmean(scores[stated] for stated, count in votes.items() if count == most)


@dataclass(frozen=True)
class PairedDifference:
    """Two models on the same problems: the mean difference (second minus first) and its interval,
    and the two-sided p value of a random sign flip of the problems' differences.
    """

    difference: Interval
    p: float


def compare(first: Mapping[str, float], second: Mapping[str, float]) -> PairedDifference:
    """Compare means by problem; both mappings have the same keys, else `ValueError`.

    Pairing takes the problems' difficulty out of the difference, which is why it can tell models
    apart whose own intervals overlap.
    """
    if first.keys() != second.keys():
        raise ValueError("only means over the same problems can be compared")
    differences = [second[problem] - first[problem] for problem in sorted(first)]
    return PairedDifference(mean_interval(differences), sign_flip_p(differences))


def sign_flip_p(differences: Sequence[float], flips: int = FLIPS, seed: int = 0) -> float:
    """The two-sided p value of the mean difference under random signs, which are all equally likely
    where both models are the same. The observed signs count as one of the draws, so p is never 0.
    """
    sizes = [abs(difference) for difference in differences if difference]
    if not sizes:
        return 1.0
    # Rounding may not decide whether an equal sum counts as reached.
    observed = abs(math.fsum(differences)) - 1e-9 * math.fsum(sizes)
    rng, total, n = random.Random(seed), math.fsum(sizes), len(sizes)
    reached = 0
    for _ in range(flips):
        signs = rng.getrandbits(n)
        minus = sum(size for place, size in enumerate(sizes) if signs >> place & 1)
        reached += abs(total - 2 * minus) >= observed
    return (reached + 1) / (flips + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p values adjusted for their number (Holm 1979), by the same names in the same order."""
    ordered = sorted(p_values, key=lambda name: p_values[name])
    adjusted: dict[str, float] = {}
    reached = 0.0
    for place, name in enumerate(ordered):
        reached = max(reached, min(1.0, (len(ordered) - place) * p_values[name]))
        adjusted[name] = reached
    return {name: adjusted[name] for name in p_values}


@lru_cache(maxsize=1024)
def t_quantile(p: float, freedom: int) -> float:
    """The quantile of Student's t for 0.5 < p < 1 and whole degrees of freedom, by bisection."""
    if not 0.5 < p < 1.0 or freedom < 1:
        raise ValueError(f"no t quantile at p={p} with {freedom} degrees of freedom")
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < p:
        low, high = high, high * 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if t_cdf(middle, freedom) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def t_cdf(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0: the finite series for whole degrees of freedom (Abramowitz and Stegun,
    26.7.3 and 26.7.4)."""
    theta = math.atan2(t, math.sqrt(freedom))
    cos_squared = math.cos(theta) ** 2
    odd = freedom % 2
    term = math.cos(theta) if odd else 1.0
    series = term if freedom > 1 else 0.0
    for step in range(3 if odd else 2, freedom - 1, 2):
        term *= cos_squared * (step - 1) / step
        series += term
    between = math.sin(theta) * series  # P(-t <= T <= t), but for the odd case's own form
    if odd:
        between = 2 / math.pi * (theta + between)
    return 0.5 + between / 2
