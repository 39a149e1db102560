"""The quality gate: how many groups may fail, and what happens then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from algo.errors import FailureKind, JudgeOutage
from algo.judge import gate as gate_module
from algo.judge.gate import QualityGate
from algo.judge.settings import GateSettings
from tests.builders.judgements import failure


def quality_gate(outage_s: float = 60.0, **settings: Any) -> QualityGate:
    chosen = {"window": 10, "max_failed_fraction": 0.3, **settings}
    return QualityGate(GateSettings.model_validate(chosen), outage_s)


async def test_it_closes_once_more_than_its_share_of_a_window_failed() -> None:
    gate = quality_gate()
    for _ in range(3):
        gate.judged()
        assert gate.group_failed(failure()) is None
    outage = gate.group_failed(failure())
    assert isinstance(outage, JudgeOutage)
    assert outage.kind is FailureKind.INVALID
    assert "ropd.gate.max_failed_fraction=0.3" in str(outage)
    assert "verifier m at u" in str(outage)


async def test_failures_that_left_the_window_are_forgotten() -> None:
    gate = quality_gate()
    for _ in range(20):
        for _ in range(3):
            assert gate.group_failed(failure()) is None
        for _ in range(10):
            gate.judged()


async def test_the_outage_names_the_most_frequent_kind() -> None:
    gate = quality_gate()
    kinds = [FailureKind.REFUSAL, FailureKind.REFUSAL, FailureKind.REFUSAL, FailureKind.INVALID]
    outages = [gate.group_failed(failure(kind)) for kind in kinds]
    assert outages[-1] is not None
    assert outages[-1].kind is FailureKind.REFUSAL


async def test_a_full_share_never_closes() -> None:
    gate = quality_gate(max_failed_fraction=1.0)
    assert all(gate.group_failed(failure()) is None for _ in range(50))


async def test_a_pause_lets_one_group_at_a_time_try_and_opens_on_success(
    monkeypatch: pytest.MonkeyPatch,
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
    monkeypatch: pytest.MonkeyPatch,
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


async def test_a_pause_ends_in_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
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
