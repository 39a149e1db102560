"""The figures of judged groups, and what a drain makes of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.asking.query import Exchange
from algo.errors import FailureKind
from algo.judge.metrics import Tally, group_figures, quantile
from algo.llm.endpoint import Endpoint
from algo.ropd.scoring import panel_figures
from algo.ropd.settings import VerifierSettings
from tests.builders.judgements import REPLY, judged


def test_a_group_without_spread_is_a_tie() -> None:
    assert group_figures(*judged(0.5, 0.5))["tie_rate"] == [1.0]
    figures = group_figures(*judged(0.25, 0.75, teachers=(0.7, 0.5)))
    assert figures["tie_rate"] == [0.0]
    assert figures["reward_std"] == [0.25]
    assert figures["margin"] == [pytest.approx(0.1)]
    assert figures["teacher_beaten_rate"] == [1.0]


def test_a_drain_gives_counts_means_latencies_and_cost_and_starts_anew() -> None:
    prices = {"input": 1.0, "cached": 0.1, "output": 10.0}
    settings = VerifierSettings.model_validate({"prices": prices})
    tally = Tally([Endpoint("verifier", "m", "u", settings)])
    transcript = [Exchange("verifier", REPLY, None, 7), Exchange("verifier", None, "x")]
    for scores in ((0.0, 1.0), (1.0, 1.0)):
        judgement, one = judged(*scores, teachers=(0.5,))
        judgement.transcript.extend(transcript)
        tally.judged(judgement, group_figures(judgement, one), panel_figures(one.panels))
    tally.failed(FailureKind.TIMEOUT, transcript)
    metrics = tally.drain({"retries": 3.0})
    assert metrics["ropd/groups_judged"] == 2.0
    assert metrics["ropd/groups_failed"] == metrics["ropd/failed/timeout"] == 1.0
    assert metrics["ropd/failed/refusal"] == 0.0
    assert metrics["ropd/reward_mean"] == 0.75
    assert metrics["ropd/tie_rate"] == 0.5
    assert metrics["ropd/criteria"] == 2.0
    assert metrics["ropd/pass_rate/task_completion"] == 0.5
    assert metrics["ropd/judge/retries"] == 3.0
    assert metrics["ropd/judge/verifier_latency_p95_s"] == 0.5
    assert 0.0 < metrics["ropd/judge/group_latency_p50_s"] < 60.0
    assert metrics["ropd/judge/tokens_in"] == 3000.0
    assert metrics["ropd/judge/cut_characters"] == 21.0
    assert metrics["ropd/judge/cost"] == pytest.approx(3 * (600 + 40 + 1000) / 1e6)
    assert tally.drain({})["ropd/groups_judged"] == 0.0


def test_a_rubric_that_invents_categories_does_not_flood_the_trackers() -> None:
    tally = Tally([Endpoint("verifier", "m", "u", VerifierSettings())])
    for number in range(100):
        judgement, one = judged(0.5)
        criteria = [
            criterion.model_copy(update={"category": f"category {number}"})
            for criterion in one.panels[0].rubric.criteria
        ]
        rubric = one.panels[0].rubric.model_copy(update={"criteria": tuple(criteria)})
        tally.judged(judgement, panel_figures([replace(one.panels[0], rubric=rubric)]))
    assert sum("pass_rate" in name for name in tally.drain({})) == 8


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 1))
def test_a_quantile_is_one_of_its_values(values: list[float], share: float) -> None:
    found = quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= math.floor(share * len(values))
