"""Which directory a start writes to."""

import pytest
from omegaconf import OmegaConf

from algo.errors import ConfigurationError
from algo.judge.ledger import Spending
from algo.judge.settings import BudgetSettings
from ropd_verl import train
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


# --- checkpoints of earlier starts ----------------------------------------------------------------


def checkpoints(run, *steps, last, without_weights=()):
    for step in (*steps, *without_weights):
        folder = run.checkpoints / f"global_step_{step}"
        (folder / "actor" if step in steps else folder).mkdir(parents=True)
        (folder / "data.pt").write_text("")
    (run.checkpoints / "latest_checkpointed_iteration.txt").write_text(str(last))


def left(run):
    return sorted(int(f.name.rpartition("_")[2]) for f in run.checkpoints.glob("global_step_*"))


def test_earlier_starts_leave_no_more_checkpoints_than_are_kept(tmp_path):
    run = start(tmp_path)
    checkpoints(run, 50, 100, 150, 250, last=250, without_weights=(20, 200))
    assert run.prune_checkpoints(3) == [20, 50]
    assert left(run) == [100, 150, 200, 250]  # of 200 verl itself removed the weights
    assert run.prune_checkpoints(1) == [100, 150, 200]
    assert left(run) == [250]


@pytest.mark.parametrize("keep", [None, 0, -1])
def test_all_are_kept_where_verl_keeps_all(tmp_path, keep):
    run = start(tmp_path)
    checkpoints(run, 50, 100, last=100)
    assert run.prune_checkpoints(keep) == []
    assert left(run) == [50, 100]


def test_the_checkpoint_to_resume_from_stays(tmp_path):
    """The save of step 20 was cut off: the run resumes from 10, however few are kept."""
    run = start(tmp_path)
    checkpoints(run, 5, 10, 20, last=10)
    (run.checkpoints / "global_step_20/data.pt").unlink()
    assert run.prune_checkpoints(1) == [5]
    assert left(run) == [10, 20]


def test_a_save_that_was_cut_off_is_no_checkpoint(tmp_path):
    run = start(tmp_path)
    checkpoints(run, 5, 10, 20, 30, last=30)
    (run.checkpoints / "global_step_20/data.pt").unlink()
    assert run.prune_checkpoints(2) == [5]
    assert left(run) == [10, 20, 30]


def test_nothing_is_removed_while_no_checkpoint_is_complete(tmp_path):
    run = start(tmp_path)
    (run.checkpoints / "global_step_1/actor").mkdir(parents=True)
    assert run.prune_checkpoints(1) == []
    assert left(run) == [1]


def test_a_folder_that_cannot_be_removed_is_named(tmp_path, monkeypatch):
    run = start(tmp_path)
    checkpoints(run, 5, 10, last=10)

    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ropd_verl.run_directory.shutil.rmtree", refuse)
    with pytest.raises(ConfigurationError, match=r"ckpt_to_keep=1: .*global_step_5 .*denied"):
        run.prune_checkpoints(1)


@pytest.mark.parametrize(
    ("resume_mode", "remain"), [("auto", [10, 15]), ("resume_path", [5, 10, 15])]
)
def test_a_start_that_resumes_says_what_it_removed(tmp_path, capsys, resume_mode, remain):
    config = OmegaConf.create(
        {"trainer": {"resume_mode": resume_mode, "max_actor_ckpt_to_keep": 2}}
    )
    run = start(tmp_path, config)
    checkpoints(run, 5, 10, 15, last=15)
    train._prune(run, config)
    assert left(run) == [5, 10, 15], "a new run removes nothing"
    train._prune(start(tmp_path, config), config)
    assert left(run) == remain
    said = capsys.readouterr().out
    line = "removed the old checkpoints of steps 5 (trainer.max_actor_ckpt_to_keep=2)\n"
    assert said == (line if resume_mode == "auto" else "")


def budgeted(tokens, steps=40):
    node = {"ropd": {"judge": {"budget": {"tokens": tokens}}}, "steps": steps}
    return OmegaConf.create(node)


def test_a_run_goes_on_under_another_budget_and_records_it(tmp_path):
    first = start(tmp_path, budgeted(5))
    for config in (
        budgeted(9),
        budgeted(None),
        OmegaConf.create({"ropd": {"judge": {}}, "steps": 40}),
    ):
        again = start(tmp_path, config)
        assert (again.path, again.continued) == (first.path, True)
        assert OmegaConf.load(again.path / "config.yaml") == config
    assert start(tmp_path, budgeted(9, steps=41)).path.name == "002"


def test_a_recorded_configuration_that_is_no_yaml_is_another_one(tmp_path):
    (start(tmp_path).path / "config.yaml").write_text("a: [")
    assert start(tmp_path).path.name == "002"


def test_the_last_line_of_a_spent_budget_says_how_to_go_on(tmp_path):
    run = start(tmp_path)
    ledger = Spending(BudgetSettings(tokens=5), {}, tokens=7)
    spent = ledger.spent()
    assert spent is not None
    line = train._why_it_stopped(spent, run, "ropd.judge.budget.tokens=5")
    assert line == (
        "stopped: the judge's budget is spent: 7 tokens in all starts of this run, and "
        "ropd.judge.budget.tokens is 5; to go on, raise it or set it to null, and change nothing "
        "else; no checkpoint yet; resume with: bash training/train.sh ropd.judge.budget.tokens=5"
    )
