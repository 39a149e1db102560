"""How long the judge worked and was waited for, against a clock that ticks through the step."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.runs.judge_time import BUSY, WAITED, BatchWait, JudgingSpan, busy_s, judge_time, waited_s
from algo.runs.step_times import step_times

UIDS = ("a", "b", "c")
END = 12


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[BatchWait], dict[str, JudgingSpan]]:
    """Groups that come to the judge and leave it at whole seconds, and looks at them."""
    spans = {}
    for uid in UIDS:
        arrived = draw(st.none() | st.integers(-3, END))
        if arrived is not None:
            left = draw(st.none() | st.integers(arrived, END + 3))
            spans[uid] = JudgingSpan(arrived, left)
    cuts = sorted(draw(st.sets(st.integers(0, END), min_size=2)))
    waits = [
        BatchWait(start, end, draw(st.frozensets(st.sampled_from(UIDS))))
        for start, end in itertools.pairwise(cuts)
        if draw(st.booleans())
    ]
    return waits, spans


def at_judge(span: JudgingSpan, second: float) -> bool:
    return span.started <= second and (span.ended is None or second < span.ended)


@given(steps())
def test_busy_is_the_time_in_which_any_group_is_at_the_judge(
    step: tuple[list[BatchWait], dict[str, JudgingSpan]],
) -> None:
    _, spans = step
    ticks = [k + 0.5 for k in range(END)]
    expected = sum(any(at_judge(span, tick) for span in spans.values()) for tick in ticks)
    assert busy_s(spans.values(), 0, END) == expected


@given(steps())
def test_waited_is_the_time_in_which_nothing_generates_and_something_is_judged(
    step: tuple[list[BatchWait], dict[str, JudgingSpan]],
) -> None:
    waits, spans = step
    expected = 0
    for wait in waits:
        for second in range(int(wait.start), int(wait.end)):
            tick = second + 0.5
            there = [spans.get(uid, JudgingSpan(END, None)) for uid in wait.in_flight]
            generated = all(span.started <= tick for span in there)
            expected += generated and any(at_judge(span, tick) for span in there)
    assert waited_s(waits, spans) == expected
    assert waited_s(waits, spans) <= busy_s(spans.values(), 0, END)


def test_in_turns_the_judges_tail_is_waited_for() -> None:
    spans = {"a": JudgingSpan(1.0, 3.0), "b": JudgingSpan(4.0, 6.0)}
    waits = [BatchWait(0.0, 3.0, frozenset("ab")), BatchWait(3.0, 6.5, frozenset("b"))]
    # Storing what was judged, from 6.0 on, is not the judge's time.
    assert judge_time(waits, spans, 0.0, 10.0) == {BUSY: 4.0, WAITED: 2.0}


def test_while_others_generate_no_one_waits_for_the_judge() -> None:
    spans = {"a": JudgingSpan(1.0, None)}
    waits = [BatchWait(0.0, 5.0, frozenset("ab"))]
    assert judge_time(waits, spans, 0.0, 10.0) == {BUSY: 9.0, WAITED: 0.0}


def metrics(**seconds: float) -> dict[str, float]:
    return {f"timing_s/{name}": value for name, value in seconds.items()}


def test_the_parts_of_a_step_add_up_to_it() -> None:
    times = step_times(
        {
            0: {"val-core/arithmetic/acc/mean@1": 0.1},
            1: metrics(step=10.0, gen=6.0, old_log_prob=1.0, ref=0.5, update_actor=2.0)
            | {BUSY: 5.0, WAITED: 1.0},
            2: metrics(step=6.0, gen=3.0, update_actor=2.0, save_checkpoint=0.5)
            | {BUSY: 3.0, WAITED: 0.0},
        }
    )
    assert times is not None
    assert times.parts == pytest.approx(
        {
            "generation": 4.0,
            "waiting for the judge alone": 0.5,
            "log-probabilities": 0.75,
            "update": 2.0,
            "weights to the rollout": 0.0,
            "checkpoint": 0.25,
            "the rest": 0.5,
        }
    )
    assert sum(times.parts.values()) == pytest.approx(times.step_s) == 8.0
    assert times.hidden == 1 - 1 / 8
    assert times.busy_share == {1: 0.5, 2: 0.5}
    assert times.waited_share == {1: 0.1, 2: 0.0}


def test_without_figures_there_are_no_times() -> None:
    assert step_times({1: metrics(step=1.0)}) is None
    idle = step_times({1: metrics(step=1.0) | {BUSY: 0.0, WAITED: 0.0}})
    assert idle is not None
    assert idle.hidden is None
