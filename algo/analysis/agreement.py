"""How far two judges agree on the same answers under the same rubrics. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

from algo.ropd.rejudge import Comparison
from algo.ropd.rubric import weighted_pass_rate


@dataclass(frozen=True)
class Agreement:
    """How far two judges agree; `None` where the figures do not allow it.

    `per_criterion` is the share of equal booleans, `kappa` the same corrected for chance,
    `per_answer` the share of answers with equal scores, `rank_correlation` Spearman's rho of the
    scores within a group, averaged over the groups in which both judges tell answers apart.
    """

    groups: int
    answers: int
    decisions: int
    per_criterion: float | None
    kappa: float | None
    per_answer: float | None
    rank_correlation: float | None
    mean_score_before: float | None
    mean_score_after: float | None


def agreement(comparisons: Sequence[Comparison]) -> Agreement:
    """The agreement over all of `comparisons`."""
    pairs = [
        pair
        for each in comparisons
        for before, after in zip(each.before, each.after, strict=True)
        for pair in zip(before, after, strict=True)
    ]
    scores = [
        [
            (weighted_pass_rate(each.rubric, before), weighted_pass_rate(each.rubric, after))
            for before, after in zip(each.before, each.after, strict=True)
        ]
        for each in comparisons
    ]
    flat = [pair for group in scores for pair in group]
    ranks = [rho for group in scores if (rho := spearman(group)) is not None]
    return Agreement(
        groups=len(comparisons),
        answers=len(flat),
        decisions=len(pairs),
        per_criterion=_mean([before == after for before, after in pairs]),
        kappa=cohens_kappa(pairs),
        per_answer=_mean([before == after for before, after in flat]),
        rank_correlation=_mean(ranks),
        mean_score_before=_mean([before for before, _ in flat]),
        mean_score_after=_mean([after for _, after in flat]),
    )


def cohens_kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Agreement of two yes/no judges beyond chance; `None` when chance alone would agree fully."""
    if not pairs:
        return None
    observed = fmean(before == after for before, after in pairs)
    first, second = fmean(pair[0] for pair in pairs), fmean(pair[1] for pair in pairs)
    chance = first * second + (1 - first) * (1 - second)
    return None if chance == 1.0 else (observed - chance) / (1 - chance)


def spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's rank correlation with tied ranks averaged; `None` when a side is constant."""
    if len(pairs) < 2:
        return None
    first = _ranks([pair[0] for pair in pairs])
    second = _ranks([pair[1] for pair in pairs])
    mean = fmean(first)
    covariance = sum((a - mean) * (b - mean) for a, b in zip(first, second, strict=True))
    spread = sqrt(sum((a - mean) ** 2 for a in first) * sum((b - mean) ** 2 for b in second))
    return None if spread == 0.0 else covariance / spread


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    first = {value: ordered.index(value) for value in set(values)}
    return [first[value] + (ordered.count(value) + 1) / 2 for value in values]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
