"""The arithmetic of the step's benchmark, on figures that are known, and its decoder."""

from typing import Any

import pytest
import torch

from algo.runs.judge_time import WAITED
from algo.runs.step_times import STEP
from algo.runs.summary import SINCE_START
from benchmarks.lean_decoder import LeanDecoder
from benchmarks.step import PARTS, WARM_UP, figures, medians, parse, step_parts, table
from examples.arithmetic.student import WarmStart, build_model


def metrics(number, **timers):
    known = {f"timing_s/{name}": value for name, value in timers.items()}
    return {STEP: 4.0, SINCE_START: 100.0 + 5.0 * number, WAITED: 0.25} | known


def steps(*numbers):
    return {
        n: metrics(n, gen=1.5, old_log_prob=0.25, update_actor=1.0, adv=0.25, update_weights=0.125)
        for n in numbers
    }


def test_the_parts_of_a_step_are_the_time_since_the_step_before():
    [first, second] = step_parts(steps(*range(1, WARM_UP + 3)))
    assert first == second
    assert first == {
        "generate": 1.25,
        "log_probs": 0.25,
        "update": 1.0,
        "judge_wait": 0.25,
        "storage": 0.375,
        "other": 1.875,
    }
    assert set(first) == set(PARTS)
    assert sum(first.values()) == 5.0


def test_a_step_after_a_gap_and_one_without_times_are_left_out():
    known = steps(*range(1, WARM_UP + 2), WARM_UP + 3) | {0: {"val-core/acc": 0.5}}
    assert len(step_parts(known)) == 1


def test_the_ratio_is_of_whole_times_and_medians():
    floor = [{"generate": g, "log_probs": 0.5, "update": 0.5} for g in (1.0, 1.0, 9.0)]
    step = [{"generate": g, "update": 1.0, "other": 0.5} for g in (0.5, 2.5, 30.0)]
    found = figures(floor, step)
    assert (found["floor_s"], found["step_s"], found["ratio"]) == (2.0, 4.0, 2.0)
    assert found["floor_parts_s"]["judge_wait"] == 0.0
    assert found["step_parts_s"]["generate"] == 2.5
    assert (found["floors"], found["steps"]) == (3, 3)
    assert "ratio 2.00, of 3 steps" in table(found)


def test_medians_name_every_part():
    assert medians([{"generate": 1.0}]) == dict.fromkeys(PARTS, 0.0) | {"generate": 1.0}


@pytest.mark.parametrize(("floor", "step"), [([], [{"other": 1.0}]), ([{"update": 1.0}], [])])
def test_nothing_timed_is_no_ratio(floor, step):
    with pytest.raises(ValueError, match="no ratio"):
        figures(floor, step)


def test_a_median_of_few_steps_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse(["--steps", "14"])
    assert "--steps=14" in capsys.readouterr().err


def test_the_floors_decoder_is_the_students_model():
    torch.manual_seed(0)
    model: Any = build_model(WarmStart(hidden_size=64, layers=2)).eval()
    prompts = [[5, 6, 7], [9], [4, 8, 15, 10, 20, 6]]
    answers = LeanDecoder(model).generate(prompts, 12, eos=3, greedy=True)
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=12,
        )
        assert answer == expected[0, len(prompt) :].tolist()
