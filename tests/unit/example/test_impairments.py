"""Which requests to the example's judge meet a delay or a fault."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from examples.arithmetic.impairments import Impairer, Impairments, Role


def impairer(**fields: Any) -> Impairer:
    return Impairer(Impairments.model_validate(fields))


def struck(by: Impairer, requests: int, role: Role = Role.VERIFIER) -> list[bool]:
    return [by.fault(role, f"prompt {i}", f"question {i}") is not None for i in range(requests)]


def test_nothing_is_wrong_by_default() -> None:
    healthy = impairer()
    assert struck(healthy, 20) == [False] * 20
    assert {healthy.delay(role) for role in Role} == {0.0}


@given(st.integers(0, 100), st.floats(0.1, 0.9))
def test_a_fraction_of_requests_fails_reproducibly(seed: int, fraction: float) -> None:
    fields = {"seed": seed, "faults": [{"kind": "http_500", "fraction": fraction}]}
    first = struck(impairer(**fields), 400)
    assert abs(statistics.mean(first) - fraction) < 0.15
    assert struck(impairer(**fields), 400) == first


def test_a_schedule_counts_only_requests_that_the_fault_concerns() -> None:
    fault = {"kind": "empty", "role": "rubricator", "prompt_contains": "needle", "schedule": [1, 2]}
    by = impairer(faults=[fault])
    assert by.fault(Role.VERIFIER, "needle", "q") is None
    assert by.fault(Role.RUBRICATOR, "hay", "q") is None
    met = [by.fault(Role.RUBRICATOR, "a needle", "q") is not None for _ in range(4)]
    assert met == [False, True, True, False]


def test_a_fault_by_question_meets_every_retry() -> None:
    by = impairer(faults=[{"kind": "drop", "fraction": 0.5, "by_question": True}])
    fates = {
        question: {by.fault(Role.VERIFIER, f"{question} {i}", question) is None for i in range(8)}
        for question in map(str, range(40))
    }
    assert all(len(fate) == 1 for fate in fates.values())
    assert len({fate for fates in fates.values() for fate in fates}) == 2


def test_the_first_fault_that_strikes_wins() -> None:
    by = impairer(faults=[{"kind": "empty", "schedule": [1]}, {"kind": "http_500"}])
    kinds = [fault.kind for _ in range(3) if (fault := by.fault(Role.TEACHER, "p", "q"))]
    assert kinds == ["http_500", "empty", "http_500"]


def test_delays_are_per_role() -> None:
    by = impairer(
        delays={
            "verifier": {"seconds": 0.25},
            "rubricator": {"distribution": "lognormal", "seconds": 2.0, "sigma": 0.5},
        }
    )
    assert {by.delay(Role.VERIFIER) for _ in range(5)} == {0.25}
    drawn = [by.delay(Role.RUBRICATOR) for _ in range(2000)]
    assert statistics.median(drawn) == pytest.approx(2.0, rel=0.1)
    assert min(drawn) > 0
    assert by.delay(Role.TEACHER) == 0.0


@pytest.mark.parametrize(
    "fields",
    [
        {"faults": [{"kind": "melt"}]},
        {"faults": [{"kind": "drop", "fraction": 1.5}]},
        {"delays": {"verifier": {"seconds": -1}}},
        {"delays": {"nobody": {"seconds": 1}}},
        {"fault": []},
    ],
)
def test_wrong_impairments_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Impairments.model_validate(fields)
