"""The fault matrix: whatever goes wrong between the pipeline and a judge, no score is made up.

Every fault, in a twentieth, a fifth and all of the requests: the reward of every group that comes
through equals the one computed from the fault-free verdicts, every failed group is counted under a
kind of its fault, and the whole takes no longer than the configured deadlines allow.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from algo.errors import FailureKind, JudgeFailure, JudgeOutage
from algo.judge.journal import read_records
from algo.judge.replay import replay
from algo.methods.registry import METHODS
from algo.ropd.pipeline import Engine, ScoredGroup
from algo.testing import HARMLESS, PASSING, Fault, FaultKind
from tests.builders.judging import group, pipeline_for, right_scores
from tests.builders.patience import patience
from tests.fakes.judge import FAULTS, FakeJudge, Planned

KINDS = {
    FaultKind.HTTP_429: {FailureKind.RATE_LIMIT},
    FaultKind.HTTP_500: {FailureKind.TRANSPORT},
    FaultKind.HTTP_503: {FailureKind.TRANSPORT},
    FaultKind.DROP: {FailureKind.TRANSPORT},
    FaultKind.HANG: {FailureKind.TIMEOUT},
    FaultKind.DRIP: {FailureKind.TIMEOUT},
    FaultKind.HALF_BODY: {FailureKind.TRANSPORT},
    FaultKind.TRUNCATED_JSON: {FailureKind.TRUNCATED},
    FaultKind.WHITESPACE: {FailureKind.TRUNCATED},
    FaultKind.EMPTY: {FailureKind.UNPARSEABLE},
    FaultKind.REFUSAL: {FailureKind.REFUSAL},
    FaultKind.REFUSAL_IN_PROSE: {FailureKind.REFUSAL},
    FaultKind.DRAFT_CUT_OFF: {FailureKind.TRUNCATED},
    FaultKind.DRAFT_UNCLOSED: {FailureKind.UNPARSEABLE},
    FaultKind.WRONG_SCHEMA: {FailureKind.INVALID},
    FaultKind.WRONG_VERSION: {FailureKind.INVALID},
    FaultKind.WRONG_COUNT: {FailureKind.INVALID},
    FaultKind.MISSING_INDEX: {FailureKind.INVALID},
    FaultKind.DOUBLE_INDEX: {FailureKind.INVALID},
}
GROUPS = 32
LIMITS = {"outage_s": 1.5, "stage_deadline_s": 4.0, "breaker_failures": 5}
LONGEST_S = 2 * 4.0 + 1.5 + 2.0
"""Two stages, an outage, and something for a busy machine."""


def share(rate: float, fault: Fault) -> FakeJudge:
    """A judge that shows `fault` in `rate` of its requests, spread without pattern."""

    def drawn(role: str, number: int) -> Planned:
        digest = hashlib.sha256(f"{fault} {role} {number}".encode()).digest()
        return fault if int.from_bytes(digest[:4]) < rate * 2**32 else ""

    return FakeJudge(fault=drawn)


async def outcomes(pipeline: Engine) -> list[ScoredGroup | BaseException]:
    groups = [group(number) for number in range(GROUPS)]
    return await asyncio.gather(
        *(pipeline.score_group(each) for each in groups), return_exceptions=True
    )


@pytest.mark.parametrize("rate", [0.05, 0.2])
@pytest.mark.parametrize("fault", [*FAULTS, *map(Fault, HARMLESS)], ids=str)
async def test_some_faults_change_no_score_and_every_failure_has_its_kind(
    fault: Fault, rate: float, tmp_path: Path
) -> None:
    judge = share(rate, fault)
    started = time.monotonic()
    async with (
        judge.serve() as url,
        pipeline_for(url, tmp_path, limits=LIMITS, **hurry(fault)) as pipeline,
    ):
        judged = await outcomes(pipeline)
        metrics = pipeline.metrics()
    assert time.monotonic() - started < patience(LONGEST_S)
    failed = [each for each in judged if isinstance(each, BaseException)]
    assert all(isinstance(each, JudgeFailure) for each in failed), failed
    for number, each in enumerate(judged):
        if isinstance(each, ScoredGroup):
            assert each.scores == right_scores(group(number))
    assert len(failed) <= GROUPS // 4
    kinds = [each.kind for each in failed if isinstance(each, JudgeFailure)]
    expected = KINDS.get(fault.kind, set())
    assert set(kinds) <= expected
    assert metrics["ropd/groups_failed"] == len(failed)
    assert sum(metrics[f"ropd/failed/{kind}"] for kind in expected) == len(failed)
    assert metrics["ropd/groups_judged"] == GROUPS - len(failed)
    statuses = [record["status"] for record in read_records(tmp_path)]
    assert statuses.count("failed") == len(failed)
    assert all(replayed.exact for replayed in replay(tmp_path, METHODS))
    if fault.kind in HARMLESS:
        assert metrics["ropd/judge/retries"] == 0.0
    elif rate == 0.2:
        assert metrics["ropd/judge/retries"] > 0.0


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_a_judge_that_always_fails_stops_the_run_by_name_and_kind(
    fault: Fault, tmp_path: Path
) -> None:
    judge = share(1.0, fault)
    started = time.monotonic()
    async with (
        judge.serve() as url,
        pipeline_for(url, tmp_path, limits=LIMITS, **hurry(fault)) as pipeline,
    ):
        judged = await outcomes(pipeline)
    assert time.monotonic() - started < patience(LONGEST_S)
    assert all(isinstance(each, JudgeFailure | JudgeOutage) for each in judged)
    outages = [each for each in judged if isinstance(each, JudgeOutage)]
    assert outages
    assert {outage.kind for outage in outages} <= KINDS[fault.kind]
    assert all(url in str(outage) for outage in outages)
    assert not any("scores" in record for record in read_records(tmp_path))


def hurry(fault: Fault) -> dict[str, Any]:
    """A short timeout where the fault is that no reply ever ends."""
    if fault.kind not in (FaultKind.HANG, FaultKind.DRIP):
        return {}
    role = {"timeout_s": 0.4}
    return {"rubricator": role, "verifier": role}


def test_the_matrix_names_every_fault() -> None:
    assert set(KINDS) == {fault.kind for fault in FAULTS} == set(PASSING)
