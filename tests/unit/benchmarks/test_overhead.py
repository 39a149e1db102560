"""The overhead of judging: its arithmetic on known steps, and what differs between the runs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.runs.step_times import STEP
from algo.runs.summary import read_metrics
from benchmarks import overhead
from benchmarks.overhead import VERL, WARM_UP, WAYS, counted, figures, order, overrides

SECONDS = st.lists(st.floats(0.1, 100.0), min_size=1, max_size=9)
ROUNDS = st.lists(st.fixed_dictionaries(dict.fromkeys(WAYS, SECONDS)), min_size=1, max_size=5)


def test_the_ratio_is_that_of_the_medians_over_all_rounds():
    rounds = [
        {"verl": [2.0, 2.0, 8.0], "ropd": [3.0, 3.0, 3.0]},
        {"verl": [4.0, 4.0, 4.0], "ropd": [3.0, 5.0, 5.0]},
    ]
    assert figures(rounds) == {
        "ratio": 3.0 / 4.0,
        "ratio_lowest": 5.0 / 4.0,
        "ratio_highest": 3.0 / 2.0,
        "ropd_s": 3.0,
        "verl_s": 4.0,
        "rounds": 2.0,
        "steps": 6.0,
    }


@given(ROUNDS)
def test_exchanged_ways_give_the_inverse_and_equal_ways_one(rounds):
    found = figures(rounds)
    exchanged = figures([{"verl": one["ropd"], "ropd": one["verl"]} for one in rounds])
    equal = figures([dict.fromkeys(WAYS, one["verl"]) for one in rounds])
    assert found["ratio"] * exchanged["ratio"] == pytest.approx(1.0)
    assert found["ratio_lowest"] * exchanged["ratio_highest"] == pytest.approx(1.0)
    assert found["ratio_lowest"] <= found["ratio_highest"]
    assert equal["ratio"] == equal["ratio_lowest"] == equal["ratio_highest"] == 1.0


@given(ROUNDS, st.floats(0.5, 2.0))
def test_a_machine_that_is_slower_all_along_has_the_same_ratio(rounds, factor):
    slower = [{way: [factor * s for s in one[way]] for way in WAYS} for one in rounds]
    assert figures(slower)["ratio"] == pytest.approx(figures(rounds)["ratio"])


def test_a_way_without_steps_is_an_error_and_no_ratio():
    with pytest.raises(ValueError, match="no step that counts"):
        figures([{"verl": [], "ropd": [1.0]}])


def test_steps_of_the_warm_up_and_what_is_no_step_do_not_count(tmp_path):
    lines = [{"step": n, "data": {STEP: float(n)}} for n in range(1, WARM_UP + 3)]
    lines.append({"step": WARM_UP + 3, "data": {"val-core/x/mean@1": 0.5}})
    file = tmp_path / "001.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert counted(read_metrics([file])) == [WARM_UP + 1.0, WARM_UP + 2.0]


def test_both_ways_are_first_in_turn():
    assert {order(0), order(1)} == {WAYS, WAYS[::-1]}
    assert order(2) == order(0)


def test_the_ways_differ_in_nothing_but_the_reward_and_where_they_are_written(tmp_path):
    verl, ropd = (overrides(way, tmp_path, 5) for way in WAYS)
    assert set(verl) - set(ropd) == {f"run_root={tmp_path / 'verl'}", *VERL}
    assert set(ropd) - set(verl) == {f"run_root={tmp_path / 'ropd'}"}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Answer with the word yes.", "yes"),
        ("ropd.rubric.v1 <<<BEGIN QUESTION 0>>>", overhead.RUBRIC),
        ("<<<BEGIN ANSWER 1 0>>> <<<BEGIN ANSWER 2 0>>>", overhead.verdicts(2)),
    ],
)
def test_the_judge_says_yes_to_as_many_answers_as_it_is_shown(prompt, expected):
    assert overhead.reply(prompt) == expected
