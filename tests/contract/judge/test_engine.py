"""The pipeline against a judge over real HTTP: right scores, visible failures, bounded waits."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from algo.errors import ConfigurationError, FailureKind, JudgeFailure, JudgeOutage
from algo.judge.journal import read_records
from algo.judge.preflight import check_judge
from algo.judge.replay import replay
from algo.methods.registry import METHODS, roles_of
from algo.openai_env import resolve_roles
from algo.ropd.pipeline import Rollout
from algo.ropd.settings import RopdSettings
from tests.builders.judging import group, pipeline_for, right_scores
from tests.builders.patience import patience
from tests.fakes.judge import FakeJudge


async def test_scores_are_the_weighted_pass_rates_of_the_verdicts(tmp_path: Path) -> None:
    judge = FakeJudge()
    async with judge.serve() as url, pipeline_for(url, tmp_path) as pipeline:
        groups = [group(number) for number in range(6)]
        scored = await asyncio.gather(*(pipeline.score_group(each) for each in groups))
    assert [each.scores for each in scored] == [right_scores(each) for each in groups]
    assert judge.requests == {"rubricator": 6, "verifier": 6}
    assert all(len(each.teacher_scores) == 4 for each in scored)


async def test_a_rollout_without_an_answer_scores_zero_by_rule_and_is_not_shown(
    tmp_path: Path,
) -> None:
    judge = FakeJudge()
    rollouts = [
        Rollout("<think>deep</think>the answer", True),
        Rollout("SECRET cut off in the mid", False),
        Rollout("<think>SECRET never closed", True),
        Rollout("<think>SECRET</think> \n", True),
        Rollout(":", True),
    ]
    zero = {"unfinished": "zero"}
    async with judge.serve() as url, pipeline_for(url, tmp_path, rollouts=zero) as pipeline:
        of = group(1, rollouts=rollouts)
        scored = await pipeline.score_group(of)
        metrics = pipeline.metrics()
    assert scored.scores == (right_scores(of)[0], 0.0, 0.0, 0.0, 0.0)
    assert scored.rules == (None, "unfinished", "unclosed_think", "empty", "empty")
    assert not any("SECRET" in str(body) for body in judge.bodies)
    assert metrics["ropd/unfinished"] == metrics["ropd/rule/unfinished"] == 0.2
    assert metrics["ropd/ruled_groups"] == 1.0


async def test_a_rollout_that_was_cut_off_is_left_out_where_that_is_asked(tmp_path: Path) -> None:
    judge = FakeJudge()
    rollouts = [Rollout("whole", True), Rollout("SECRET cut", False), Rollout(":", True)]
    of = group(1, rollouts=rollouts)
    drop = {"unfinished": "drop"}
    async with judge.serve() as url, pipeline_for(url, tmp_path, rollouts=drop) as pipeline:
        scored = await pipeline.score_group(of)
        metrics = pipeline.metrics()
    first, second, third = right_scores(of)
    assert second > 0
    assert scored.scores == (first, 0.0, third)
    assert scored.rules == (None, "dropped", "empty")
    assert not any("SECRET" in str(body) for body in judge.bodies)
    assert metrics["ropd/reward_mean"] == (first + third) / 2
    assert metrics["ropd/rule/dropped"] == metrics["ropd/unfinished"] == pytest.approx(1 / 3)
    assert all(replayed.exact for replayed in replay(tmp_path, METHODS))


async def test_a_rollout_that_was_cut_off_is_judged_as_far_as_it_goes(tmp_path: Path) -> None:
    """As the paper judges every rollout, the default; what is left of a thought is no answer."""
    judge = FakeJudge()
    rollouts = [
        Rollout("a whole answer", True),
        Rollout("an answer cut off in the mid", False),
        Rollout("<think>SECRET cut off", False),
    ]
    of = group(1, rollouts=rollouts)
    async with judge.serve() as url, pipeline_for(url, tmp_path) as pipeline:
        scored = await pipeline.score_group(of)
        metrics = pipeline.metrics()
    assert scored.rules == (None, None, "unclosed_think")
    assert scored.scores == right_scores(of)
    assert scored.scores[1] > 0
    assert any("an answer cut off in the mid" in str(body) for body in judge.bodies)
    assert not any("SECRET" in str(body) for body in judge.bodies)
    assert metrics["ropd/unfinished"] == pytest.approx(2 / 3)
    assert metrics["ropd/rule/unfinished"] == 0.0
    assert all(replayed.exact for replayed in replay(tmp_path, METHODS))


async def test_a_student_that_does_not_think_hides_nothing_behind_a_tag(tmp_path: Path) -> None:
    judge = FakeJudge()
    rollouts = [
        Rollout("WRONG work</think>a claim of success", True, thinks=False),
        Rollout("I never open a <think> tag", True, thinks=False),
    ]
    of = group(1, rollouts=rollouts)
    async with judge.serve() as url, pipeline_for(url, tmp_path) as pipeline:
        scored = await pipeline.score_group(of)
    assert scored.rules == (None, None)
    for shown in ("WRONG work", "I never open a"):
        assert any(shown in str(body) for body in judge.bodies)
    assert all(replayed.exact for replayed in replay(tmp_path, METHODS))


async def test_a_group_without_any_answer_needs_no_call(tmp_path: Path) -> None:
    judge = FakeJudge()
    async with judge.serve() as url, pipeline_for(url, tmp_path) as pipeline:
        scored = await pipeline.score_group(group(1, rollouts=[Rollout("", True)] * 3))
    assert scored.scores == (0.0, 0.0, 0.0)
    assert judge.bodies == []
    assert next(read_records(tmp_path))["rules"] == ["empty"] * 3


async def test_a_reply_that_stays_garbled_fails_its_group_alone(tmp_path: Path) -> None:
    def fault(role: str, number: int) -> str:
        return "wrong_count" if role == "verifier" and number < 3 else ""

    judge = FakeJudge(fault=fault)
    async with judge.serve() as url, pipeline_for(url, tmp_path) as pipeline:
        with pytest.raises(JudgeFailure) as failed:
            await pipeline.score_group(group(1))
        scored = await pipeline.score_group(group(2))
        metrics = pipeline.metrics()
    assert failed.value.kind is FailureKind.INVALID
    assert scored.scores == right_scores(group(2))
    assert metrics["ropd/groups_failed"] == metrics["ropd/failed/invalid"] == 1.0
    assert metrics["ropd/groups_judged"] == 1.0
    records = list(read_records(tmp_path))
    assert [record["status"] for record in records] == ["failed", "judged"]
    assert "scores" not in records[0]
    assert len(records[0]["calls"]) == 4


async def test_a_repair_turn_tells_the_model_what_was_wrong(tmp_path: Path) -> None:
    judge = FakeJudge(
        fault=lambda role, number: "wrong_count" if role == "verifier" and number == 0 else ""
    )
    async with judge.serve() as url, pipeline_for(url, tmp_path) as pipeline:
        scored = await pipeline.score_group(group(1))
    assert scored.scores == right_scores(group(1))
    turns = judge.bodies[-1]["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert "give exactly" in turns[2]["content"]


async def test_a_dead_endpoint_is_an_outage_that_names_it(tmp_path: Path) -> None:
    limits = {"outage_s": 0.5, "stage_deadline_s": 30.0}
    async with pipeline_for("http://127.0.0.1:9/v1", tmp_path, limits=limits) as pipeline:
        outcomes = await asyncio.gather(
            *(pipeline.score_group(group(number)) for number in range(8)), return_exceptions=True
        )
    assert all(isinstance(outcome, JudgeOutage) for outcome in outcomes)
    assert "127.0.0.1:9" in str(outcomes[0])
    assert outcomes[0].kind is FailureKind.TRANSPORT  # pyright: ignore[reportAttributeAccessIssue]


async def test_an_endpoint_that_comes_back_costs_no_group(tmp_path: Path) -> None:
    judge = FakeJudge(fault=lambda role, number: "http_500" if number < 12 else "")
    limits = {"outage_s": 20.0}
    async with judge.serve() as url, pipeline_for(url, tmp_path, limits=limits) as pipeline:
        groups = [group(number) for number in range(8)]
        scored = await asyncio.gather(*(pipeline.score_group(each) for each in groups))
    assert [each.scores for each in scored] == [right_scores(each) for each in groups]


async def test_check_names_role_url_setting_and_fix(tmp_path: Path) -> None:
    async with pipeline_for("http://127.0.0.1:9/v1", tmp_path) as pipeline:
        with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1:9.*ropd\.judge\..*base_url"):
            await pipeline.check()


async def test_check_reports_a_refused_key_without_showing_it(tmp_path: Path) -> None:
    judge = FakeJudge(key="right")
    role = {"api_key_env": "MY_KEY"}
    async with (
        judge.serve() as url,
        pipeline_for(
            url, tmp_path, environ={"MY_KEY": "wr0ng"}, rubricator=role, verifier=role
        ) as pipeline,
    ):
        with pytest.raises(ConfigurationError, match="MY_KEY") as refused:
            await pipeline.check()
    assert "wr0ng" not in str(refused.value)


async def test_an_endpoint_without_json_schema_is_asked_for_text(tmp_path: Path) -> None:
    judge = FakeJudge(json_schema=False)
    async with judge.serve() as url, pipeline_for(url, tmp_path) as pipeline:
        await pipeline.score_group(group(1))
        scored = await pipeline.score_group(group(2))
    assert scored.scores == right_scores(group(2))
    assert judge.requests == {"rubricator": 3, "verifier": 3}


@pytest.mark.parametrize(
    ("rejection", "kind"),
    [
        ("http_400", FailureKind.TRANSPORT),
        ("content_filter", FailureKind.REFUSAL),
        ("context_overflow", FailureKind.CONTEXT_OVERFLOW),
    ],
)
async def test_a_request_that_is_rejected_fails_its_group_and_keeps_the_schema(
    rejection: str, kind: FailureKind, tmp_path: Path
) -> None:
    judge = FakeJudge(fault=lambda role, number: rejection if judge.requests.total() == 2 else "")
    async with judge.serve() as url, pipeline_for(url, tmp_path) as pipeline:
        with pytest.raises(JudgeFailure) as failed:
            await pipeline.score_group(group(1))
        scored = await pipeline.score_group(group(2))
        metrics = pipeline.metrics()
    assert failed.value.kind is kind
    assert metrics[f"ropd/failed/{kind}"] == 1.0
    assert scored.scores == right_scores(group(2))
    assert len(judge.bodies) == 4
    assert all("response_format" in body for body in judge.bodies)


async def test_the_responses_style_is_judged_alike(tmp_path: Path) -> None:
    judge = FakeJudge(fault=lambda role, number: "truncated_json" if number == 0 else "")
    role = {"api": "responses"}
    async with (
        judge.serve() as url,
        pipeline_for(url, tmp_path, rubricator=role, verifier=role) as pipeline,
    ):
        scored = await pipeline.score_group(group(1))
        metrics = pipeline.metrics()
    assert scored.scores == right_scores(group(1))
    assert metrics["ropd/judge/retries/truncated"] == 2.0
    assert judge.bodies[0]["text"]["format"]["name"] == "ropd_rubric_v1"


async def test_check_names_a_model_that_is_not_served(tmp_path: Path) -> None:
    judge = FakeJudge(models=("another", "third"), fault=lambda role, number: "http_404")
    async with judge.serve() as url, pipeline_for(url, tmp_path) as pipeline:
        with pytest.raises(ConfigurationError, match=r"another, third.*ROPD_\w+_MODEL"):
            await pipeline.check()


async def test_check_accepts_a_model_that_is_served_but_not_listed(tmp_path: Path) -> None:
    judge = FakeJudge(models=("another",))
    async with judge.serve() as url, pipeline_for(url, tmp_path) as pipeline:
        await pipeline.check()


async def test_the_journal_keeps_all_that_a_reward_was_made_of(tmp_path: Path) -> None:
    judge = FakeJudge(fault=lambda role, number: "empty" if number == 0 else "")
    of = group(1, size=3)
    async with judge.serve() as url, pipeline_for(url, tmp_path) as pipeline:
        scored = await pipeline.score_group(of)
    record = next(read_records(tmp_path))
    assert record["judgement_id"] == scored.judgement_id
    assert (record["uid"], record["step"], record["question"]) == ("uid-1", 1, "What is 1 + 1?")
    assert [rollout["text"] for rollout in record["rollouts"]] == [r.text for r in of.rollouts]
    assert [len(teacher["sha256"]) for teacher in record["teachers"]] == [64] * 4
    panel = record["panels"][0]
    assert sorted(panel["order"]) == list(range(7))
    assert [len(verdict) for verdict in panel["student_verdicts"]] == [len(panel["rubric"])] * 3
    assert [call["stage"] for call in record["calls"]] == ["rubricator"] * 2 + ["verifier"] * 2
    assert record["calls"][0]["fault"].startswith("unparseable")
    assert "ropd.batch_verifier.v2" in record["calls"][3]["raw"]
    assert record["calls"][3]["completion_tokens"] == 20
    assert record["roles"]["rubricator"]["temperature"] == 0.7
    assert set(record["templates"]) == {"rubricator", "verifier"}
    assert tuple(record["scores"]) == scored.scores


async def test_check_judge_says_where_every_value_came_from() -> None:
    async with FakeJudge(key="k").serve() as url:
        settings = RopdSettings.from_node({"judge": {"rubricator": {"model": "fake"}}})
        environ = {
            "OPENAI_BASE_URL": url,
            "OPENAI_API_KEY": "k",
            "ROPD_VERIFIER_MODEL": "fake",
        }
        roles = resolve_roles(roles_of(settings), environ)
        await check_judge(roles, settings.limits)
    assert [role.line() for role in roles] == [
        f"rubricator: model fake (from ropd.judge.rubricator.model), endpoint {url} "
        "(from OPENAI_BASE_URL), key from OPENAI_API_KEY",
        f"verifier: model fake (from ROPD_VERIFIER_MODEL), endpoint {url} "
        "(from OPENAI_BASE_URL), key from OPENAI_API_KEY",
    ]


async def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with FakeJudge().serve() as url, pipeline_for(url, tmp_path) as pipeline:
        scored = await pipeline.score_group(group(1))
    assert scored.scores == right_scores(group(1))


async def test_a_refused_key_stops_the_run_and_is_not_quoted(tmp_path: Path) -> None:
    role = {"api_key_env": "K"}
    async with (
        FakeJudge(key="right").serve() as url,
        pipeline_for(
            url,
            tmp_path,
            environ={"K": "sk-wr0ng"},
            rubricator=role,
            verifier=role,
            limits={"outage_s": 0.3},
        ) as pipeline,
    ):
        with pytest.raises(JudgeOutage, match="HTTP 401: the endpoint refuses the key") as stopped:
            await pipeline.score_group(group(1))
    assert "sk-wr0ng" not in str(stopped.value)


async def test_metrics_can_be_read_without_a_loop_and_keep_their_keys(tmp_path: Path) -> None:
    async with FakeJudge().serve() as url, pipeline_for(url, tmp_path) as pipeline:
        await pipeline.score_group(group(1))
        first = await asyncio.to_thread(pipeline.metrics)
        await pipeline.score_group(group(1, uid="again"))
        second = await asyncio.to_thread(pipeline.metrics)
    assert set(first) == set(second)
    assert all(name.startswith("ropd/") for name in first)
    assert all(isinstance(value, float) for value in first.values())


async def test_closing_journals_what_was_paid_and_opens_nothing_anew(tmp_path: Path) -> None:
    judge = FakeJudge(delay_s=lambda role: 5.0 if role == "verifier" else 0.0)
    async with judge.serve() as url:
        pipeline = pipeline_for(url, tmp_path)
        at_work = [asyncio.create_task(pipeline.score_group(group(number))) for number in range(4)]
        await asyncio.sleep(0.5)
        started = time.monotonic()
        await pipeline.aclose()
        assert time.monotonic() - started < patience(2.0)
        ends = await asyncio.gather(*at_work, return_exceptions=True)
        with pytest.raises(JudgeOutage, match="the engine was closed"):
            await pipeline.score_group(group(5))
        asked = judge.requests.total()
    assert all(isinstance(end, JudgeOutage) for end in ends)
    records = list(read_records(tmp_path))
    assert [record["status"] for record in records] == ["failed"] * 4
    assert all("ropd.rubric.v1" in record["calls"][0]["raw"] for record in records)
    assert asked == 8


async def test_models_that_fail_at_one_prompt_do_not_stop_the_run(tmp_path: Path) -> None:
    """llama.cpp, for one, answers 500 where a reply breaks its grammar: whenever it is asked."""
    judge = FakeJudge()
    judge.fault = lambda role, number: (
        "http_500" if "What is 3 + 3?" in str(judge.bodies[-1]) else ""
    )
    limits = {"outage_s": 0.3}
    async with judge.serve() as url, pipeline_for(url, tmp_path, limits=limits) as pipeline:
        with pytest.raises(JudgeFailure, match="retries used up after 7 attempts"):
            await pipeline.score_group(group(3))
        scored = await pipeline.score_group(group(4))
    assert scored.scores == right_scores(group(4))
    assert judge.requests["trial"] >= 1
