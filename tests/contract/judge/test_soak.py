"""12,000 requests with 5 % faults of every kind: no wrong score, none lost that had a retry left,
memory flat, no task or socket left behind.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
from pathlib import Path

import pytest

from algo.errors import JudgeFailure
from algo.judge.replay import replay
from algo.methods.registry import METHODS
from algo.ropd.pipeline import Engine
from algo.testing import Fault, FaultKind
from tests.builders.judging import group, pipeline_for, right_scores
from tests.fakes.judge import FAULTS, FakeJudge, Planned

JUDGEMENTS = 6_000
STEP = 250
COSTLY = {FaultKind.HANG, FaultKind.DRIP}
"""Faults that only cost time; one in a hundred of the others is enough of them."""


def fault(role: str, number: int) -> Planned:
    drawn = int.from_bytes(hashlib.sha256(f"soak {role} {number}".encode()).digest()[:8])
    if drawn % 20:
        return ""
    chosen = FAULTS[(drawn // 20) % len(FAULTS)]
    return Fault(FaultKind.HTTP_500) if chosen.kind in COSTLY and (drawn // 1000) % 100 else chosen


def resident_mb() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 1e6


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def judge_step(pipeline: Engine, start: int) -> int:
    groups = [group(number, size=4) for number in range(start, start + STEP)]
    ends = await asyncio.gather(
        *(pipeline.score_group(each) for each in groups), return_exceptions=True
    )
    failed = 0
    for each, end in zip(groups, ends, strict=True):
        if isinstance(end, BaseException):
            assert isinstance(end, JudgeFailure), end
            assert "retries used up" in str(end) or "the last allowed" in str(end), end
            failed += 1
        else:
            assert end.scores == right_scores(each)
    return failed


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_nothing_is_wrong_lost_or_left_behind_over_six_thousand_judgements(
    tmp_path: Path,
) -> None:
    judge = FakeJudge(fault=fault, keep_bodies=False)
    failed, memory = 0, []
    tasks_before, files_before = len(asyncio.all_tasks()), open_files()
    async with judge.serve() as url, pipeline_for(url, tmp_path) as pipeline:
        for start in range(0, JUDGEMENTS, STEP):
            failed += await judge_step(pipeline, start)
            metrics = pipeline.metrics()
            assert metrics["ropd/judge/in_flight"] == 0.0
            memory.append(resident_mb())
    await asyncio.sleep(0.1)
    assert failed < JUDGEMENTS // 500
    assert len(asyncio.all_tasks()) == tasks_before
    assert open_files() <= files_before + 2
    quarter = len(memory) // 4
    assert max(memory[-quarter:]) < max(memory[:quarter]) + 20.0
    replayed = sum(1 for each in replay(tmp_path, METHODS) if each.exact)
    assert replayed == JUDGEMENTS - failed
