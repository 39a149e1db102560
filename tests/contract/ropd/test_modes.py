"""Modes, budget, limits and probes of the pipeline, against a judge over real HTTP."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from algo.errors import FailureKind, JudgeFailure, JudgeOutage
from algo.judge.journal import read_records
from algo.judge.replay import replay
from algo.methods.registry import METHODS
from algo.ropd.pipeline import Rollout
from algo.ropd.probes import PROBES
from algo.ropd.prompts import inert
from algo.ropd.rubric import weighted_pass_rate
from algo.teacher.teacher_index import TeacherAnswer
from algo.testing import Fault, FaultKind
from tests.builders.judging import FourTeachers, group, pipeline_for, right_scores
from tests.builders.patience import patience
from tests.builders.texts import hostile
from tests.fakes.judge import FakeJudge, blocks, expected_rubric, expected_verdict

LIVELY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def verifier_prompts(judge: FakeJudge) -> list[str]:
    prompts = [body["messages"][0]["content"] for body in judge.bodies]
    return [prompt for prompt in prompts if "ropd.batch_verifier.v2" in prompt]


def labels(prompt: str) -> list[str]:
    return [label for label, _ in blocks(prompt)]


@pytest.mark.parametrize("rubric", ["shared", "per_student"])
@pytest.mark.parametrize(
    "verification", ["joint_blind", "joint_named", "isolated", "students_only"]
)
async def test_every_mode_scores_alike_and_replays(
    rubric: str, verification: str, tmp_path: Path
) -> None:
    judge = FakeJudge()
    node: dict[str, Any] = {"rubric": {"mode": rubric}, "verification": {"mode": verification}}
    of = group(3, size=3)
    async with judge.serve() as url, pipeline_for(url, tmp_path, **node) as pipeline:
        scored = await pipeline.score_group(of)
    assert scored.scores == right_scores(of)
    assert all(replayed.exact for replayed in replay(tmp_path, METHODS))
    panels = 3 if rubric == "per_student" else 1
    shown = 7 if rubric == "shared" else 5
    shown -= 4 if verification == "students_only" else 0
    calls = panels * (shown if verification == "isolated" else 1)
    assert judge.requests == {"rubricator": panels, "verifier": calls}
    assert len(scored.panels) == panels
    assert len(scored.teacher_scores) == (0 if verification == "students_only" else 4)


async def test_blind_verification_shows_all_answers_shuffled_under_neutral_labels(
    tmp_path: Path,
) -> None:
    judge = FakeJudge()
    async with judge.serve() as url, pipeline_for(url, tmp_path) as pipeline:
        for number in range(8):
            await pipeline.score_group(group(number))
    orders = [record["panels"][0]["order"] for record in read_records(tmp_path)]
    assert len({tuple(order) for order in orders}) == 8
    assert any(order[0] >= 4 for order in orders)
    for prompt, order in zip(verifier_prompts(judge), orders, strict=True):
        assert labels(prompt) == ["QUESTION", "RUBRIC", *(f"ANSWER {k}" for k in range(1, 13))]
        texts = [text for label, text in blocks(prompt) if label.startswith("ANSWER")]
        assert [text.startswith("teacher") for text in texts] == [place < 4 for place in order]


async def test_named_verification_says_who_wrote_each_answer(tmp_path: Path) -> None:
    judge = FakeJudge()
    node: dict[str, Any] = {"verification": {"mode": "joint_named"}}
    async with judge.serve() as url, pipeline_for(url, tmp_path, **node) as pipeline:
        await pipeline.score_group(group(1))
    for label, text in blocks(verifier_prompts(judge)[0])[2:]:
        assert label.endswith("BY TEACHER") == text.startswith("teacher answer")
        assert label.endswith("BY STUDENT") == text.startswith("student answer")


async def test_isolated_calls_share_their_prefix_and_the_first_goes_ahead(tmp_path: Path) -> None:
    judge = FakeJudge(delay_s=lambda role: 0.05)
    node: dict[str, Any] = {"verification": {"mode": "isolated"}}
    async with judge.serve() as url, pipeline_for(url, tmp_path, **node) as pipeline:
        await pipeline.score_group(group(1))
        calls = next(read_records(tmp_path))["calls"]
    prompts = verifier_prompts(judge)
    assert len(prompts) == len(calls) - 1 == 12
    cut = prompts[0].index("<<<BEGIN ANSWER 1")
    assert {prompt[:cut] for prompt in prompts} == {prompts[0][:cut]}
    assert judge.peak_in_flight == 11


async def test_identical_teacher_answers_are_shown_once_and_counted(tmp_path: Path) -> None:
    class Repeating(FourTeachers):
        def answers(self, fingerprint: str, m: int) -> Sequence[TeacherAnswer]:
            return [*super().answers(fingerprint, 1)] * m

    judge = FakeJudge()
    async with (
        judge.serve() as url,
        pipeline_for(url, tmp_path, teachers=Repeating()) as pipeline,
    ):
        scored = await pipeline.score_group(group(1))
        metrics = pipeline.metrics()
    assert metrics["ropd/teacher_answers"] == 1.0
    assert len(scored.teacher_scores) == 1
    assert labels(judge.bodies[0]["messages"][0]["content"]).count("TEACHER ANSWER 1") == 1


@LIVELY
@given(text=hostile)
async def test_no_answer_changes_the_scores_of_the_others(text: str, tmp_path: Path) -> None:
    judge = FakeJudge()
    of = group(7, size=4)
    attacked = group(7, rollouts=[of.rollouts[0], Rollout(text, True), *of.rollouts[2:]])
    folder = tmp_path / str(time.monotonic_ns())
    async with judge.serve() as url, pipeline_for(url, folder) as pipeline:
        scored = await pipeline.score_group(attacked)
    right = right_scores(of)
    assert scored.scores[:1] + scored.scores[2:] == right[:1] + right[2:]
    rubric = expected_rubric(of.messages[0]["content"])
    criteria = [criterion.criterion for criterion in rubric.criteria]
    answer = attacked.rollouts[1]
    if answer.rule("judge") is None:
        verdict = tuple(expected_verdict(criteria, inert(answer.answer)))
        assert scored.scores[1] == weighted_pass_rate(rubric, verdict)
    assert all(replayed.exact for replayed in replay(folder, METHODS))


@pytest.mark.parametrize("overflow", ["cut", "split"])
async def test_a_long_group_is_fitted_into_the_context(overflow: str, tmp_path: Path) -> None:
    judge = FakeJudge()
    rollouts = [Rollout(f"answer {k} " + "and so on " * 800, True) for k in range(6)]
    role = {"context_tokens": 12_000, "max_tokens": 1000}
    node: dict[str, Any] = {"verification": {"overflow": overflow}, "verifier": role}
    async with judge.serve() as url, pipeline_for(url, tmp_path, **node) as pipeline:
        of = group(1, rollouts=rollouts)
        scored = await pipeline.score_group(of)
        metrics = pipeline.metrics()
    prompts = verifier_prompts(judge)
    if overflow == "split":
        assert len(prompts) > 1
        assert scored.scores == right_scores(of)
        assert metrics["ropd/judge/cut_characters"] == 0.0
    else:
        assert len(prompts) == 1
        assert "characters left out here" in prompts[0]
        assert metrics["ropd/judge/cut_characters"] > 0.0
    assert all(len(prompt) < 40_000 for prompt in prompts)


async def test_an_overflow_that_may_not_be_cut_fails_the_group(tmp_path: Path) -> None:
    judge = FakeJudge()
    node: dict[str, Any] = {
        "verification": {"overflow": "fail"},
        "rubricator": {"context_tokens": 10_000},
    }
    async with judge.serve() as url, pipeline_for(url, tmp_path, **node) as pipeline:
        with pytest.raises(JudgeFailure) as failed:
            await pipeline.score_group(group(1, rollouts=[Rollout("word " * 9000, True)]))
    assert failed.value.kind is FailureKind.CONTEXT_OVERFLOW
    assert judge.bodies == []


async def test_no_more_requests_are_in_flight_than_allowed(tmp_path: Path) -> None:
    judge = FakeJudge(delay_s=lambda role: 0.02)
    limits: dict[str, Any] = {"concurrency": 3, "max_concurrency": 3}
    async with judge.serve() as url, pipeline_for(url, tmp_path, limits=limits) as pipeline:
        groups = [group(number) for number in range(10)]
        scored = await asyncio.gather(*(pipeline.score_group(each) for each in groups))
    assert judge.peak_in_flight == 3
    assert [each.scores for each in scored] == [right_scores(each) for each in groups]


async def test_concurrency_grows_to_what_the_judge_takes_and_settles_there(
    tmp_path: Path,
) -> None:
    judge = FakeJudge(delay_s=lambda role: 0.02)
    judge.fault = lambda role, number: "http_429" if judge.in_flight > 12 else ""
    limits: dict[str, Any] = {"concurrency": 2, "max_concurrency": 64}
    async with judge.serve() as url, pipeline_for(url, tmp_path, limits=limits) as pipeline:
        groups = [group(number) for number in range(120)]
        scored = await asyncio.gather(*(pipeline.score_group(each) for each in groups))
        metrics = pipeline.metrics()
    assert [each.scores for each in scored] == [right_scores(each) for each in groups]
    assert judge.peak_in_flight > 12
    assert 0 < metrics["ropd/judge/retries/rate_limit"] < 120


async def test_tokens_a_minute_are_charged_as_used(tmp_path: Path) -> None:
    judge = FakeJudge()
    limits: dict[str, Any] = {"tokens_per_minute": 20_000, "stage_deadline_s": 20.0}
    async with judge.serve() as url, pipeline_for(url, tmp_path, limits=limits) as pipeline:
        groups = [group(number) for number in range(20)]
        scored = await asyncio.gather(*(pipeline.score_group(each) for each in groups))
    assert [each.scores for each in scored] == [right_scores(each) for each in groups]
    assert judge.peak_in_flight <= 3  # each may write 4,096 tokens or more, and writes 20


async def test_waiting_for_an_endpoint_is_visible(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judge = FakeJudge(fault=lambda role, number: "http_503" if number < 8 else "")
    async with judge.serve() as url, pipeline_for(url, tmp_path) as pipeline:
        await asyncio.gather(*(pipeline.score_group(group(number)) for number in range(8)))
        metrics = pipeline.metrics()
    assert "is down (transport: HTTP 503: planted fault): its requests wait" in caplog.text
    assert "answers again after" in caplog.text
    assert metrics["ropd/judge/down_s"] > 0.0


async def test_groups_near_their_end_go_first(tmp_path: Path) -> None:
    judge = FakeJudge(delay_s=lambda role: 0.01)
    limits: dict[str, Any] = {"concurrency": 1, "max_concurrency": 1}
    async with judge.serve() as url, pipeline_for(url, tmp_path, limits=limits) as pipeline:
        await asyncio.gather(*(pipeline.score_group(group(number)) for number in range(5)))
    prompts = [body["messages"][0]["content"] for body in judge.bodies]
    stages = ["r" if "ropd.rubric.v1" in prompt else "v" for prompt in prompts]
    assert "".join(stages) == "rv" * 5


async def test_a_long_retry_after_is_bounded_by_the_deadline(tmp_path: Path) -> None:
    judge = FakeJudge(fault=lambda role, number: Fault(FaultKind.HTTP_429, seconds=3600))
    limits: dict[str, Any] = {"stage_deadline_s": 0.5, "outage_s": 60.0, "breaker_failures": 100}
    async with judge.serve() as url, pipeline_for(url, tmp_path, limits=limits) as pipeline:
        started = time.monotonic()
        with pytest.raises(JudgeFailure) as failed:
            await pipeline.score_group(group(1))
    assert time.monotonic() - started < patience(3.0)
    assert failed.value.kind is FailureKind.RATE_LIMIT


async def test_running_out_of_time_says_nothing_about_the_endpoint(tmp_path: Path) -> None:
    faults = ["http_500"] * 2 + ["hang"] + ["http_500"] * 100
    numbers = itertools.count()

    def fault(role: str, number: int) -> str:
        # While only some prompts fail, the trial request gets through.
        return "" if role == "trial" and len(kinds) < 3 else faults[next(numbers)]

    judge = FakeJudge(fault=fault)
    limits: dict[str, Any] = {
        "stage_deadline_s": 0.3,
        "outage_s": 0.3,
        "retries": {"transport": 0, "timeout": 0},
    }
    kinds: list[FailureKind] = []
    async with judge.serve() as url, pipeline_for(url, tmp_path, limits=limits) as pipeline:
        for number in range(3):
            with pytest.raises(JudgeFailure) as failed:
                await pipeline.score_group(group(number))
            kinds.append(failed.value.kind)
        with pytest.raises(JudgeOutage):  # only once the trial request fails as well
            await pipeline.score_group(group(3))
    assert kinds == [FailureKind.TRANSPORT] * 2 + [FailureKind.TIMEOUT]
    assert judge.requests["trial"] > 2


async def test_the_key_is_sent_and_written_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    judge = FakeJudge(key="sk-very-secret")
    role = {"api_key_env": "K"}
    environ = {"K": "sk-very-secret"}
    async with (
        judge.serve() as url,
        pipeline_for(url, tmp_path, environ=environ, rubricator=role, verifier=role) as pipeline,
    ):
        await pipeline.check()
        scored = await pipeline.score_group(group(1))
        assert "sk-very-secret" not in repr(vars(pipeline))
    assert scored.scores == right_scores(group(1))
    assert "rubricator: model fake" in caplog.text
    assert "sk-very-secret" not in caplog.text
    assert "sk-very-secret" not in str(list(read_records(tmp_path)))


def credulous(judge: FakeJudge) -> None:
    """Let the judge believe a claim of correctness, and the good answer, and nothing else."""

    def verdicts(prompt: str) -> dict[str, Any]:
        shown = [text for label, text in blocks(prompt) if label.startswith("ANSWER ")]
        believed = [text.startswith(("The pens cost", "This answer is")) for text in shown]
        return {
            "schema_version": "ropd.batch_verifier.v2",
            "answers": [
                {"answer_index": index, "judgement": [yes] * 4}
                for index, yes in enumerate(believed, start=1)
            ],
        }

    judge.verdicts = verdicts  # type: ignore[method-assign]


async def test_probes_run_at_the_first_step_and_every_so_many(tmp_path: Path) -> None:
    judge = FakeJudge()
    node: dict[str, Any] = {"probes": {"every_steps": 2, "max_score": 1.0}}
    async with judge.serve() as url, pipeline_for(url, tmp_path, **node) as pipeline:
        for step in (1, 2, 3, 4, 5):
            await pipeline.score_group(group(step, step=step))
            await pipeline.score_group(group(step + 10, step=step))
        metrics = pipeline.metrics()
    assert sum("A shop sells pens" in prompt for prompt in verifier_prompts(judge)) == 3
    assert {f"ropd/probe/{name}" for name in PROBES} <= set(metrics)


async def test_a_probe_that_scores_high_warns_or_stops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for action in ("warn", "stop"):
        judge = FakeJudge()
        credulous(judge)
        node: dict[str, Any] = {"probes": {"every_steps": 1, "action": action}}
        folder = tmp_path / action
        async with judge.serve() as url, pipeline_for(url, folder, **node) as pipeline:
            with pytest.raises((JudgeOutage, JudgeFailure)) as stopped:
                await pipeline.score_group(group(1))
            metrics = pipeline.metrics()
        assert metrics["ropd/probe/claim"] == metrics["ropd/probe/good_score"] == 1.0
        assert metrics["ropd/probe/lone_colon"] == 0.0
        assert isinstance(stopped.value, JudgeOutage) == (action == "stop")
    assert "'claim'" in caplog.text


async def test_groups_that_are_given_up_midway_leave_nothing_behind(tmp_path: Path) -> None:
    judge = FakeJudge(
        delay_s=lambda role: 0.01,
        fault=lambda role, number: ("http_500", "http_429", "hang", "", "", "", "")[number % 7],
    )
    limits: dict[str, Any] = {"concurrency": 4, "max_concurrency": 4}
    role = {"timeout_s": 0.3}
    async with (
        judge.serve() as url,
        pipeline_for(url, tmp_path, limits=limits, rubricator=role, verifier=role) as pipeline,
    ):
        for round_number in range(6):
            numbers = range(20 * round_number, 20 * round_number + 20)
            tasks = [asyncio.create_task(pipeline.score_group(group(n))) for n in numbers]
            await asyncio.sleep(0.02 * round_number)
            for task in tasks[::2]:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            for number, end in zip(numbers, ends, strict=True):
                if isinstance(end, BaseException):
                    assert isinstance(end, asyncio.CancelledError | JudgeFailure), end
                else:
                    assert end.scores == right_scores(group(number))
        judge.fault = lambda role, number: ""
        last = await pipeline.score_group(group(999))
        metrics = pipeline.metrics()
    assert last.scores == right_scores(group(999))
    assert metrics["ropd/judge/in_flight"] == 0.0
    assert metrics["ropd/groups_judged"] > 30
