"""A group succeeds or fails as one, and nobody waits for a sibling that will not come."""

import asyncio

import pytest

from ropd_verl.group_barrier import GroupBarrier, GroupFailed
from tests.builders.patience import patience


def barrier(size, judge):
    return GroupBarrier[str, float](size, judge)


async def lengths(rollouts):
    return [float(len(r)) for r in rollouts]


async def test_scores_come_back_in_session_order_however_they_arrive():
    group = barrier(3, lengths)
    late = [asyncio.create_task(group.arrive(i, "x" * i)) for i in (2, 0, 1)]
    assert await asyncio.gather(*late) == [2.0, 0.0, 1.0]


async def test_the_group_is_judged_once_and_only_when_complete():
    calls = []

    async def judge(rollouts):
        calls.append(list(rollouts))
        return [0.0, 0.0]

    group = barrier(2, judge)
    first = asyncio.create_task(group.arrive(1, "b"))
    await asyncio.sleep(0)
    assert calls == []
    await group.arrive(0, "a")
    await first
    assert calls == [["a", "b"]]


async def test_a_dead_sibling_fails_those_who_wait_at_once():
    group = barrier(2, lengths)
    waiting = asyncio.create_task(group.arrive(0, "a"))
    await asyncio.sleep(0)
    group.fail(ConnectionError("server gone"))
    with pytest.raises(GroupFailed, match="ConnectionError: server gone"):
        await waiting
    with pytest.raises(GroupFailed):
        await group.arrive(1, "b")


async def test_a_failed_judgement_fails_all_with_its_cause():
    async def judge(rollouts):
        raise TimeoutError("judge")

    group = barrier(2, judge)
    outcomes = await asyncio.gather(
        group.arrive(0, "a"), group.arrive(1, "b"), return_exceptions=True
    )
    for outcome in outcomes:
        assert isinstance(outcome, GroupFailed)
        assert isinstance(outcome.__cause__, TimeoutError)


async def test_one_waiters_cancellation_leaves_the_others_alone():
    group = barrier(2, lengths)
    impatient = asyncio.create_task(group.arrive(0, "a"))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await group.arrive(1, "bb") == 2.0


async def test_a_late_failure_does_not_take_the_scores_back():
    group = barrier(1, lengths)
    assert await group.arrive(0, "abc") == 3.0
    group.fail(RuntimeError("too late"))
    assert await group.arrive(0, "abc") == 3.0


async def test_a_session_that_ends_without_an_answer_fails_the_group_at_once():
    group = barrier(2, lengths)
    waiting = asyncio.create_task(group.arrive(0, "a"))
    await asyncio.sleep(0)
    group.left(0)  # it arrived
    assert not waiting.done()
    group.left(1)
    with pytest.raises(GroupFailed, match="session 1 ended without an answer"):
        await asyncio.wait_for(waiting, patience(1))


async def test_a_session_that_ends_after_the_judgement_changes_nothing():
    group = barrier(1, lengths)
    assert await group.arrive(0, "a") == 1.0
    group.left(0)
    assert await group.arrive(0, "a") == 1.0
