"""How far two judges agree."""

from __future__ import annotations

import pytest

from algo.analysis.agreement import agreement, cohens_kappa, spearman
from algo.ropd.rejudge import Comparison
from tests.builders.rubrics import rubric_of


def test_agreement_of_two_judges() -> None:
    rubric = rubric_of(1, 1)
    before = ((True, True), (True, False), (False, False))
    same = agreement([Comparison(rubric, before, before)])
    assert (same.per_criterion, same.kappa, same.per_answer) == (1.0, 1.0, 1.0)
    assert same.rank_correlation == pytest.approx(1.0)
    other = agreement([Comparison(rubric, before, before[::-1])])
    assert other.per_criterion == pytest.approx(2 / 6)
    assert other.per_answer == pytest.approx(1 / 3)
    assert other.rank_correlation == pytest.approx(-1.0)
    assert (other.groups, other.answers, other.decisions) == (1, 3, 6)
    none = agreement([])
    assert none.per_criterion is none.kappa is none.rank_correlation is None


def test_kappa_and_rank_correlation_against_known_values() -> None:
    table = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    assert cohens_kappa(table) == pytest.approx(0.4)
    assert cohens_kappa([(True, True)] * 3) is None
    assert spearman([(1, 2), (2, 1), (3, 4), (4, 3)]) == pytest.approx(0.6)
    assert spearman([(1, 1), (1, 2), (2, 3)]) == pytest.approx(3**0.5 / 2)
    assert spearman([(1, 1), (1, 2)]) is None
