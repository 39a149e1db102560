"""How long an attempt and a stage may take where nobody says so."""

from __future__ import annotations

import pytest

from algo.llm.settings import LimitsSettings, RoleSettings


@pytest.mark.parametrize(
    ("max_tokens", "attempt_s", "stage_s"),
    [(16, 120.0, 600.0), (4096, 120.0, 600.0), (32_768, 960.0, 4800.0)],
)
def test_long_replies_have_the_time_that_they_take(
    max_tokens: int, attempt_s: float, stage_s: float
) -> None:
    role = RoleSettings(max_tokens=max_tokens)
    assert role.attempt_s == pytest.approx(attempt_s, abs=0.1)
    assert LimitsSettings().stage_s(role) == pytest.approx(stage_s, abs=0.1)


def test_what_is_set_holds() -> None:
    role = RoleSettings(max_tokens=34_000, timeout_s=20.0)
    assert role.attempt_s == 20.0
    assert LimitsSettings().stage_s(role) == 600.0
    assert LimitsSettings(stage_deadline_s=30.0).stage_s(RoleSettings(max_tokens=34_000)) == 30.0
