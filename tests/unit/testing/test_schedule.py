"""Which requests meet a delay or a fault."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from algo.testing import Fault, FaultKind, Impairer, Impairments, Request


def impairer(**fields: Any) -> Impairer:
    return Impairer(Impairments.model_validate(fields), question_of=lambda r: r.text.split()[0])


def request(role: str, text: str) -> Request:
    return Request({"messages": [{"role": "user", "content": text}]}, role)


def met(by: Impairer, role: str, *texts: str) -> list[bool]:
    """Which of the requests met a fault."""
    return [by.plan(request(role, text)) is not None for text in texts]


def struck(by: Impairer, requests: int) -> list[bool]:
    return met(by, "verifier", *(f"question{i} prompt" for i in range(requests)))


def test_nothing_is_wrong_by_default() -> None:
    healthy = impairer()
    assert struck(healthy, 20) == [False] * 20
    assert {healthy.delay_s(request(role, "p")) for role in ("rubricator", "verifier")} == {0.0}


@given(st.integers(0, 100), st.floats(0.1, 0.9))
def test_a_fraction_of_requests_fails_reproducibly(seed: int, fraction: float) -> None:
    fields = {"seed": seed, "faults": [{"kind": "http_500", "fraction": fraction}]}
    first = struck(impairer(**fields), 400)
    assert abs(statistics.mean(first) - fraction) < 0.15
    assert struck(impairer(**fields), 400) == first


def test_a_schedule_counts_only_requests_that_the_fault_concerns() -> None:
    fault = {"kind": "empty", "role": "rubricator", "prompt_contains": "needle", "schedule": [1, 2]}
    by = impairer(faults=[fault])
    assert met(by, "verifier", "needle") == [False]
    assert met(by, "rubricator", "hay") == [False]
    assert met(by, "rubricator", *["a needle"] * 4) == [False, True, True, False]


def test_a_fault_by_question_meets_every_retry() -> None:
    by = impairer(faults=[{"kind": "drop", "fraction": 0.5, "by_question": True}])
    fates = {
        question: set(met(by, "verifier", *(f"{question} {i}" for i in range(8))))
        for question in map(str, range(40))
    }
    assert all(len(fate) == 1 for fate in fates.values())
    assert len({fate for fates in fates.values() for fate in fates}) == 2


def test_the_first_fault_that_strikes_wins() -> None:
    by = impairer(faults=[{"kind": "empty", "schedule": [1]}, {"kind": "http_500"}])
    kinds = [fault.kind for _ in range(3) if (fault := by.plan(request("teacher", "p")))]
    assert kinds == ["http_500", "empty", "http_500"]


@pytest.mark.parametrize(("given", "seconds"), [({}, 1.0), ({"seconds": None}, None)])
def test_a_fault_lasts_a_second_unless_told_otherwise(
    given: dict[str, Any], seconds: float | None
) -> None:
    by = impairer(faults=[{"kind": "http_429", **given}])
    assert by.plan(request("verifier", "p")) == Fault(FaultKind.HTTP_429, seconds)


def test_delays_are_per_role() -> None:
    by = impairer(
        delays={
            "verifier": {"seconds": 0.25},
            "rubricator": {"distribution": "lognormal", "seconds": 2.0, "sigma": 0.5},
        }
    )
    assert {by.delay_s(request("verifier", "p")) for _ in range(5)} == {0.25}
    drawn = [by.delay_s(request("rubricator", "p")) for _ in range(2000)]
    assert statistics.median(drawn) == pytest.approx(2.0, rel=0.1)
    assert min(drawn) > 0
    assert by.delay_s(request("teacher", "p")) == 0.0


@pytest.mark.parametrize(
    "fields",
    [
        {"faults": [{"kind": "melt"}]},
        {"faults": [{"kind": "drop", "fraction": 1.5}]},
        {"delays": {"verifier": {"seconds": -1}}},
        {"fault": []},
    ],
)
def test_wrong_impairments_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Impairments.model_validate(fields)
