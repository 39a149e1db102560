"""What surrounds the judging of a group: rules, quality gate, figures, records."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.errors import FailureKind, JudgeFailure, JudgeOutage
from algo.judge import gate as gate_module
from algo.judge.asking import Exchange
from algo.judge.gate import QualityGate
from algo.judge.group import Group, Rollout
from algo.judge.method import Judgement, ScoredGroup
from algo.judge.metrics import Tally, group_figures, quantile
from algo.judge.record import Setup, failed_record, sha256
from algo.judge.settings import GateSettings
from algo.llm.endpoint import Endpoint, Reply
from algo.ropd.scoring import RubricPanel, panel_figures
from algo.ropd.settings import VerifierSettings
from tests.unit.ropd.test_rubric import rubric_of


class TestRules:
    @pytest.mark.parametrize(
        ("text", "finished", "rule"),
        [
            ("42", True, None),
            ("\u221e", True, None),
            ("\u7b54\u6848", True, None),
            ("<think>a</think>42", True, None),
            ("a</think>42", True, None),
            ("<think>a</think>b<think>c</think>42", True, None),
            ("", True, "empty"),
            (" \n\t\u00a0\u200b", True, "empty"),
            (":", True, "empty"),
            ("...!?", True, "empty"),
            ("<think>a</think>", True, "empty"),
            ("<think>a</think> \n", True, "empty"),
            ("<think>42", True, "unclosed_think"),
            ("<think>a</think>b<think>c", True, "unclosed_think"),
            ("42", False, "unfinished"),
            ("", False, "unfinished"),
        ],
    )
    def test_what_is_no_answer_scores_zero_by_name(
        self, text: str, finished: bool, rule: str | None
    ) -> None:
        assert Rollout(text, finished).rule == rule

    @given(st.text(), st.text(alphabet=st.characters(exclude_characters="<")))
    def test_only_the_text_after_the_last_think_block_is_judged(
        self, thinking: str, answer: str
    ) -> None:
        assert Rollout(f"<think>{thinking}</think>{answer}", True).answer == answer.strip()


def failure(kind: FailureKind = FailureKind.INVALID) -> JudgeFailure:
    return JudgeFailure(kind, "verifier", "garbled", "verifier m at u")


def quality_gate(outage_s: float = 60.0, **settings: Any) -> QualityGate:
    chosen = {"window": 10, "max_failed_fraction": 0.3, **settings}
    return QualityGate(GateSettings.model_validate(chosen), outage_s)


class TestQualityGate:
    async def test_it_closes_once_more_than_its_share_of_a_window_failed(self) -> None:
        gate = quality_gate()
        for _ in range(3):
            gate.judged()
            assert gate.group_failed(failure()) is None
        outage = gate.group_failed(failure())
        assert isinstance(outage, JudgeOutage)
        assert outage.kind is FailureKind.INVALID
        assert "ropd.gate.max_failed_fraction=0.3" in str(outage)
        assert "verifier m at u" in str(outage)

    async def test_failures_that_left_the_window_are_forgotten(self) -> None:
        gate = quality_gate()
        for _ in range(20):
            for _ in range(3):
                assert gate.group_failed(failure()) is None
            for _ in range(10):
                gate.judged()

    async def test_the_outage_names_the_most_frequent_kind(self) -> None:
        gate = quality_gate()
        kinds = [FailureKind.REFUSAL, FailureKind.REFUSAL, FailureKind.REFUSAL, FailureKind.INVALID]
        outages = [gate.group_failed(failure(kind)) for kind in kinds]
        assert outages[-1] is not None
        assert outages[-1].kind is FailureKind.REFUSAL

    async def test_a_full_share_never_closes(self) -> None:
        gate = quality_gate(max_failed_fraction=1.0)
        assert all(gate.group_failed(failure()) is None for _ in range(50))

    async def test_a_pause_lets_one_group_at_a_time_try_and_opens_on_success(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gate_module, "TRIAL_EVERY_S", 0.01)
        gate = quality_gate(action="pause")
        for _ in range(4):
            assert gate.group_failed(failure()) is None
        inside = most = trials = 0

        async def group() -> None:
            nonlocal inside, most, trials
            async with gate.passage():
                if gate.is_closed:
                    trials += 1
                    inside += 1
                    most = max(most, inside)
                    await asyncio.sleep(0.01)
                    inside -= 1
                    if trials < 3:
                        gate.group_failed(failure())
                        return
                gate.judged()

        await asyncio.gather(*(group() for _ in range(12)))
        assert (trials, most) == (3, 1)
        assert not gate.is_closed

    async def test_a_group_given_up_before_its_trial_makes_room_for_the_next(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = quality_gate(action="pause")
        for _ in range(4):
            gate.group_failed(failure())

        async def group() -> None:
            async with gate.passage():
                gate.judged()

        first = asyncio.create_task(group())
        await asyncio.sleep(0)  # it sleeps until its trial
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        monkeypatch.setattr(gate_module, "TRIAL_EVERY_S", 0.0)
        async with asyncio.timeout(10):
            await group()
        assert not gate.is_closed

    async def test_a_pause_ends_in_an_outage(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gate_module, "TRIAL_EVERY_S", 0.02)
        gate = quality_gate(outage_s=0.2, action="pause")
        for _ in range(4):
            gate.group_failed(failure())

        async def group() -> None:
            async with gate.passage():
                outage = gate.group_failed(failure())
                if outage is not None:
                    raise outage

        ends = await asyncio.gather(*(group() for _ in range(50)), return_exceptions=True)
        outages = [end for end in ends if isinstance(end, JudgeOutage)]
        assert len(outages) > 30
        assert all(end is None or isinstance(end, JudgeOutage) for end in ends)


def judged(*scores: float, teachers: tuple[float, ...] = ()) -> tuple[Judgement, ScoredGroup]:
    """A judgement of rollouts that satisfied the first of two criteria."""
    panel = RubricPanel(
        rubric_of(1, 1), tuple(range(len(scores))), (), (), ((True, False),) * len(scores)
    )
    judgement = Judgement(group_of(len(scores)), "fp", "q", teachers=("t",) * 4)
    return judgement, ScoredGroup("j", scores, (None,) * len(scores), (panel,), teachers)


def group_of(size: int) -> Group:
    return Group("u", [{"role": "user", "content": "q"}], [Rollout("abc", True)] * size, 3)


REPLY = Reply("t", "stop", "m", 1000, 100, 400, 0.5, 1)


class TestFigures:
    def test_a_group_without_spread_is_a_tie(self) -> None:
        assert group_figures(*judged(0.5, 0.5))["tie_rate"] == [1.0]
        figures = group_figures(*judged(0.25, 0.75, teachers=(0.7, 0.5)))
        assert figures["tie_rate"] == [0.0]
        assert figures["reward_std"] == [0.25]
        assert figures["margin"] == [pytest.approx(0.1)]
        assert figures["teacher_beaten_rate"] == [1.0]

    def test_a_drain_gives_counts_means_latencies_and_cost_and_starts_anew(self) -> None:
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

    def test_a_rubric_that_invents_categories_does_not_flood_the_trackers(self) -> None:
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
    def test_a_quantile_is_one_of_its_values(self, values: list[float], share: float) -> None:
        found = quantile(values, share)
        assert found in values
        assert sum(value <= found for value in values) >= math.floor(share * len(values))


def test_a_failed_record_holds_what_was_said_and_no_score() -> None:
    judgement = Judgement(group_of(2), "fp", "q", teachers=("t1", "t2"))
    judgement.transcript.append(Exchange("verifier", REPLY, "invalid: wrong"))
    endpoint = Endpoint("verifier", "m", "u", VerifierSettings())
    setup = Setup("ropd", {"templates": {"verifier": "ab"}}, [endpoint])
    record = failed_record(judgement, failure(), setup)
    assert (record["method"], record["templates"]) == ("ropd", {"verifier": "ab"})
    assert record["status"] == "failed"
    assert record["failure"]["kind"] == "invalid"
    assert "scores" not in record
    assert record["calls"][0]["raw"] == "t"
    assert record["calls"][0]["fault"] == "invalid: wrong"
    assert record["teachers"] == [{"sha256": sha256("t1")}, {"sha256": sha256("t2")}]
