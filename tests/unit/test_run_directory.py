"""Which directory a start writes to."""

import pytest
from omegaconf import OmegaConf

from algo.ropd.errors import ConfigurationError
from ropd_verl.run_directory import SUMMARY, open_run_directory

CONFIG = OmegaConf.create({"trainer": {"total_training_steps": 40}, "x": "${trainer}"})


def start(root, config=CONFIG, may_continue=True):
    run = open_run_directory(root, config, may_continue=may_continue)
    run.lock.close()  # as when the process ends, however it ends
    return run


def test_an_interrupted_run_is_continued(tmp_path):
    first = start(tmp_path)
    again = start(tmp_path)
    assert (first.path.name, first.continued) == ("001", False)
    assert (again.path, again.continued) == (first.path, True)


def test_a_finished_run_is_left_alone(tmp_path):
    (start(tmp_path).path / SUMMARY).write_text("{}")
    run = start(tmp_path)
    assert (run.path.name, run.continued) == ("002", False)
    assert "finished" in run.reason


def test_another_configuration_opens_another_run(tmp_path):
    start(tmp_path)
    run = start(tmp_path, OmegaConf.create({"trainer": {"total_training_steps": 5}}))
    assert run.path.name == "002"
    assert "configuration" in run.reason


def test_a_run_in_progress_is_not_shared(tmp_path):
    running = open_run_directory(tmp_path, CONFIG, may_continue=True)
    run = start(tmp_path)
    assert run.path.name == "002"
    running.lock.close()


def test_resume_can_be_switched_off(tmp_path):
    start(tmp_path)
    assert start(tmp_path, may_continue=False).path.name == "002"


def test_logs_of_a_restart_do_not_overwrite(tmp_path):
    run = start(tmp_path)
    first = run.next_file("logs", ".log")
    first.write_text("first")
    assert run.next_file("logs", ".log").name == "002.log"


def test_last_checkpoint_is_the_complete_one(tmp_path):
    run = start(tmp_path)
    assert run.last_checkpoint() is None
    run.checkpoints.mkdir()
    (run.checkpoints / "latest_checkpointed_iteration.txt").write_text("20")
    assert run.last_checkpoint() == 20


def test_a_root_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="run_root="):
        start(tmp_path / "file" / "runs")
