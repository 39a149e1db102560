"""The comparison of training modes, on runs whose figures are known."""

import json

import pytest

from algo.runs.judge_time import BUSY, WAITED
from algo.runs.step_times import STEP
from algo.runs.summary import REWARD
from benchmarks.learning_curves import curve, main, welch_t


def run(folder, mode, seed, rewards, accuracy):
    (folder / "metrics").mkdir(parents=True)
    lines = [
        {"step": n, "data": {REWARD: reward, STEP: 4.0, BUSY: 2.0, WAITED: 0.5}}
        for n, reward in enumerate(rewards, start=1)
    ]
    (folder / "metrics/001.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "config.yaml").write_text(f"seed: {seed}\ntrainer: {{v1: {{trainer_mode: {mode}}}}}")
    summary = {"accuracy_after": accuracy, "greedy_accuracy_after": None}
    (folder / "summary.json").write_text(json.dumps(summary))
    return str(folder)


def test_a_curve_is_cut_into_four_parts_that_hold_every_step():
    rewards = {step: {REWARD: float(step)} for step in range(1, 11)} | {0: {}}
    assert curve(rewards) == {
        "reward, steps 1 to 3": 2.0,
        "reward, steps 4 to 6": 5.0,
        "reward, steps 7 to 9": 8.0,
        "reward, steps 10 to 10": 10.0,
    }


def test_t_is_the_difference_in_standard_errors():
    # variances 1 and 4, of three each: sqrt(1/3 + 4/3)
    assert welch_t([1, 2, 3], [4, 6, 8]) == pytest.approx(-4 / (5 / 3) ** 0.5)
    assert welch_t([1.0], [2.0, 3.0]) is None
    assert welch_t([1.0, 1.0], [1.0, 1.0]) is None


def test_modes_are_compared_over_their_runs(tmp_path, capsys):
    runs = [
        run(tmp_path / "001", "sync", 0, [0.1, 0.2, 0.3, 0.4], 0.5),
        run(tmp_path / "002", "sync", 1, [0.3, 0.4, 0.5, 0.6], 0.7),
        run(tmp_path / "003", "colocate_async", 0, [0.2, 0.3, 0.4, 0.4], 0.6),
        run(tmp_path / "004", "colocate_async", 1, [0.4, 0.5, 0.6, 0.8], 0.8),
    ]
    unfinished = tmp_path / "005"
    unfinished.mkdir()
    main([*runs, str(unfinished)])
    out = capsys.readouterr().out
    assert (
        "001  sync, seed 0: 4.00 s a step, judge at work 8.0 s, waited for 2.0 s, 75 % hidden"
        in out
    )
    assert "|  | sync | colocate_async | t(sync, colocate_async) |" in out
    assert "| reward, steps 1 to 1 | 0.200 ± 0.141 | 0.300 ± 0.141 | -0.7 |" in out
    assert "| accuracy after, sampled | 0.600 ± 0.141 | 0.700 ± 0.141 | -0.7 |" in out
    assert "005" not in out


def test_no_finished_run_is_an_error(tmp_path):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
