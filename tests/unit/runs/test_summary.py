"""What a run says of itself, from the metric files that the trainer wrote."""

import io
import json

from algo.runs import summary
from algo.runs.judge_time import BUSY, WAITED
from algo.runs.step_times import STEP
from ropd_verl import terminal

PATHS = {"checkpoints": "c", "journal": "j", "metrics": "m", "log": "l"}


def line(step, **data):
    return json.dumps({"step": step, "data": {k.replace("__", "/"): v for k, v in data.items()}})


def validation(sampled, greedy):
    return {
        "val-core/arithmetic/acc/mean@1": sampled,
        "val-core/arithmetic_greedy/acc/mean@1": greedy,
        "val-aux/arithmetic/reward/mean@1": 9.0,
    }


def training(reward, seconds, **more):
    return {
        summary.REWARD: reward,
        STEP: seconds,
        "ropd/groups_judged": 16.0,
        **more,
    }


def write(path, records, tail=""):
    lines = [json.dumps({"step": s, "data": d}) for s, d in records]
    path.write_text("\n".join(lines) + "\n" + tail)
    return path


def test_figures_of_a_whole_run(tmp_path):
    file = write(
        tmp_path / "001.jsonl",
        [
            (0, validation(0.15, 0.05)),
            (1, training(0.4, 3.0, **{"ropd/groups_failed": 2.0, summary.SINCE_START: 61.5})),
            (2, training(0.5, 1.0, **{BUSY: 0.8, WAITED: 0.25})),
            (3, training(0.6, 2.0) | validation(0.55, 0.65)),
        ],
    )
    result = summary.summarise(summary.read_metrics([file]), paths=PATHS)
    assert (result.accuracy_before, result.accuracy_after) == (0.15, 0.55)
    assert (result.greedy_accuracy_before, result.greedy_accuracy_after) == (0.05, 0.65)
    assert (result.reward_first_step, result.reward_last_step) == (0.4, 0.6)
    assert (result.groups_judged, result.groups_failed) == (48, 2)
    assert (result.steps, result.median_step_s, result.first_step_after_s) == (3, 2.0, 61.5)
    assert (result.judge_busy_s, result.judge_waited_s) == (0.8, 0.25)
    assert "judge at work for 0.8 s of them, waited for 0.2 s" in summary.table(result)


def test_a_restart_repeats_the_steps_after_its_checkpoint(tmp_path):
    killed = write(
        tmp_path / "001.jsonl",
        [(0, validation(0.1, 0.0)), (1, training(0.4, 1)), (2, training(0.1, 1))],
        tail='{"step": 3, "da',
    )
    resumed = write(tmp_path / "002.jsonl", [(1, validation(0.2, 0.1)), (2, training(0.5, 1))])
    steps = summary.read_metrics([killed, resumed])
    result = summary.summarise(steps, paths=PATHS)
    assert list(steps) == [0, 1, 2]
    # Step 1's validation says nothing of the weights after step 2.
    assert (result.accuracy_before, result.accuracy_after) == (0.1, None)
    assert result.reward_last_step == 0.5


def test_a_validation_before_training_is_not_one_after_it():
    steps = {0: validation(0.1, 0.2), 1: training(0.4, 1)}
    result = summary.summarise(steps, paths=PATHS)
    assert (result.accuracy_before, result.accuracy_after) == (0.1, None)
    assert (result.greedy_accuracy_before, result.greedy_accuracy_after) == (0.2, None)


def test_what_was_not_measured_is_null_and_not_zero(tmp_path):
    result = summary.summarise({}, paths=PATHS)
    assert result.accuracy_before is None
    assert result.median_step_s is None
    assert "-" in summary.table(result)


def test_summary_file_appears_whole(tmp_path):
    path = tmp_path / "summary.json"
    summary.write(summary.summarise({}, paths=PATHS), path)
    assert json.loads(path.read_text())["steps"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_terminal_shows_a_line_a_step(tmp_path):
    file = write(
        tmp_path / "001.jsonl",
        [
            (0, validation(0.15, 0.05)),
            (1, training(0.4, 3.0, **{"ropd/groups_failed": 2.0, WAITED: 0.31})),
        ],
    )
    out = io.StringIO()
    with terminal.progress(file, 40, out):
        pass
    assert out.getvalue().splitlines() == [
        "step   0/40  accuracy 0.150  greedy 0.050",
        "step   1/40  reward 0.400  groups replaced: 2  3.0 s  waited 0.3 s for the judge",
    ]


def test_a_run_without_a_judge_counts_no_groups_and_names_no_journal():
    steps = {1: {summary.REWARD: 0.25, STEP: 2.0}, 2: {summary.REWARD: 0.5, STEP: 4.0}}
    places = {name: place for name, place in PATHS.items() if name != "journal"}
    result = summary.summarise(steps, paths=places, method="rlvr")
    assert (result.method, result.groups_judged, result.journal) == ("rlvr", None, None)
    assert (result.reward_first_step, result.reward_last_step) == (0.25, 0.5)
    shown = summary.table(result)
    assert "rlvr: 2 steps, median 3.00 s a step" in shown
    assert "groups" not in shown
    assert "journal" not in shown
    assert "judge" not in shown
