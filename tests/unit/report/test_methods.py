"""The page of a method beside ROPD: grades in place of verdicts, or no judge at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from algo.errors import JournalError
from algo.report import write_report
from ropd_verl.config import compose_config
from tests.builders.reporting import record, write_journal


def write_config(run: Path, *overrides: str) -> Path:
    run.mkdir(exist_ok=True)
    config = compose_config("ropd_cpu", list(overrides))
    (run / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=False))
    return run


def page_of(run: Path) -> str:
    write_report(run, run / "report.html")
    return (run / "report.html").read_text(encoding="utf-8")


def test_grades_stand_beside_the_rollouts_that_share_them(tmp_path: Path) -> None:
    made = record(("answer 5", "answer 6", "answer 5", "cut"))
    for key in ("rubric_mode", "verification_mode", "shuffle_seed"):
        del made[key]
    made |= {
        "schema_version": "ropd.judgement.v2",
        "method": "tjudge",
        "panels": [
            {"students": [0, 2], "grade": 7, "top": 10},
            {"students": [1], "grade": 10, "top": 10},
        ],
        "scores": [0.7, 1.0, 0.7, 0.0],
        "teacher_scores": [],
    }
    shown = page_of(write_config(write_journal(tmp_path, made), "method=tjudge"))
    assert "every reward is the recorded one" in shown
    assert "<td>R1, R3</td><td>7 of 10 = 0.700</td>" in shown
    assert "<td>R2</td><td>10 of 10 = 1.000</td>" in shown
    assert "<code>7 of 10 = 0.700</code>" in shown
    assert "tjudge" in shown
    assert "ropd.rubric.mode" not in shown


def test_a_grade_that_does_not_give_the_recorded_reward_is_shown_loudly(tmp_path: Path) -> None:
    made = record(("answer 5", "cut"))
    made |= {
        "schema_version": "ropd.judgement.v2",
        "method": "ovd",
        "panels": [{"students": [0], "grade": 3, "top": 9}],
        "scores": [0.5, 0.0],
        "teacher_scores": [],
    }
    shown = page_of(write_journal(tmp_path, made))
    assert "The journal records 0.5, the evidence gives 0.3333333333333333" in shown


def test_a_run_without_a_journal_has_a_page(tmp_path: Path) -> None:
    run = write_config(tmp_path / "run", "method=rlvr")
    (run / "metrics").mkdir()
    lines = [
        {"step": 1, "data": {"critic/score/mean": 0.25}},
        {"step": 2, "data": {"critic/score/mean": 0.5, "val-core/a/acc/mean@1": 0.75}},
    ]
    (run / "metrics/001.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (run / "summary.json").write_text(json.dumps({"steps": 2, "accuracy_after": 0.75}))
    shown = page_of(run)
    assert "<code>method=rlvr</code>, which asks no judge" in shown
    assert "reward (mean of the rollouts): 0.250 \u2192 0.500" in shown
    assert "accuracy, sampled (held out): 0.750" in shown
    for word in ("groups in the journal", "replayed", "ropd.teacher_answers", "Judged groups"):
        assert word not in shown


def test_a_judged_run_whose_journal_is_lost_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal"):
        page_of(write_config(tmp_path / "run", "method=tjudge"))
