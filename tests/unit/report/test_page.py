"""The report: which groups it shows, and that its numbers are the journal's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from algo.cli import app
from algo.errors import ConfigurationError, JournalError
from algo.judge.method import student_scores, teacher_scores
from algo.judge.record import sha256
from algo.report import write_report
from algo.report.census import Census, percentile
from algo.report.chart import chart
from algo.report.selection import SPECIAL_SHOWN, parse_steps, select
from algo.runs.judge_time import BUSY, WAITED
from algo.runs.step_times import STEP
from algo.teacher.teacher_index import Teacher, TeacherAnswer
from algo.teacher.writer import TeacherIndexWriter
from tests.builders.reporting import (
    entry,
    failed,
    record,
    report,
    write_journal,
)

# --- which groups ---------------------------------------------------------------------------


def test_first_middle_and_last_step_give_the_widest_group_and_a_tie() -> None:
    groups = [
        entry(4 * step + k, step, scores)
        for step in range(1, 8)
        for k, scores in enumerate(([0.5, 0.6], [0.2, 0.2], [0.1, 0.9], [0.3, 0.3]))
    ]
    chosen = select(Census(tuple(groups), {}), None, None)
    assert chosen.steps == (1, 4, 7)
    assert [each.position for each in chosen.judged] == [6, 5, 18, 17, 30, 29]
    more = select(Census(tuple(groups), {}), "last:1", 3)
    assert [each.position for each in more.judged] == [30, 29, 28]


def test_a_group_of_one_rollout_is_no_tie_and_a_step_without_ties_shows_its_widest() -> None:
    groups = (entry(0, 1, [0.5]), entry(1, 1, [0.1, 0.2]), entry(2, 1, [0.1, 0.4]))
    assert [each.position for each in select(Census(groups, {}), None, None).judged] == [2, 1]


def test_failed_groups_are_bounded_and_every_kind_is_among_them() -> None:
    groups = [entry(k, k, None, "timeout") for k in range(30)] + [entry(30, 30, None, "refusal")]
    chosen = select(Census(tuple(groups), {}), None, None)
    assert len(chosen.failed) == SPECIAL_SHOWN
    assert {each.failure for each in chosen.failed} == {"timeout", "refusal"}
    assert not chosen.judged
    only = select(Census(tuple(groups), {}), "3,5", None)
    assert [each.position for each in only.failed] == [3, 5]


def test_steps_are_named_or_counted_from_the_end() -> None:
    known = (1, 2, 5, 9)
    assert parse_steps("9, 1", known) == (1, 9)
    assert parse_steps("last:3", known) == (2, 5, 9)
    assert parse_steps("last:99", known) == known
    for wrong in ("", "first:2", "last:0", "last:x", "1,,2", "1-3"):
        with pytest.raises(ConfigurationError, match="--steps"):
            parse_steps(wrong, known)
    with pytest.raises(ConfigurationError, match=r"step 3; it has steps 1 to 9"):
        parse_steps("3", known)
    with pytest.raises(ConfigurationError, match="no step"):
        parse_steps("3", ())


# --- what stands on the page ----------------------------------------------------------------


def test_the_numbers_of_the_page_are_the_journals_bit_for_bit(tmp_path: Path) -> None:
    page = report(write_journal(tmp_path, record()))
    scores = [8 / 11, 5 / 11, 0.0]
    table = [8 / 11, 5 / 11, 10 / 11]  # R1, R2, T1
    assert page.numbers == table + scores
    assert "5+3 of 11 = 0.727" in page.text
    assert "5 of 11 = 0.455" in page.text
    assert "0 by rule unfinished : it was cut off at the token limit" in page.text
    assert "missed: c3 (-2) , c4 (-1)" in page.text
    assert "replayed from their evidence: every reward is the recorded one" in page.text
    assert "contradict" not in page.text


def test_verdicts_are_told_by_a_symbol_and_stand_in_the_row_of_their_criterion(
    tmp_path: Path,
) -> None:
    page = report(write_journal(tmp_path, record()))
    rows = [row.split("</tr>")[0] for row in page.html.split("<tr>") if "criterion 2" in row]
    assert [rows[0].count(mark) for mark in "✓✗"] == [2, 1]  # R1 and T1 satisfy c2, R2 does not
    assert "1/2" in rows[0]
    assert "points earned 11 8 5 10 " in page.text  # of, R1, R2, T1
    assert "shown to the Verifier as answer 1 2 3 " in page.text  # undoes the order [1, 2, 0]


def test_the_thinking_is_set_apart_from_the_answer_that_was_judged(tmp_path: Path) -> None:
    page = report(write_journal(tmp_path, record()))
    assert "thinking, not shown to the judge (17 characters)" in page.text
    assert "\n<think>so</think>" in page.texts
    assert "\nanswer 6" in page.texts


@pytest.mark.parametrize("fault", ["score", "text", "teacher"])
def test_a_reward_that_the_booleans_do_not_give_is_shown_loudly(tmp_path: Path, fault: str) -> None:
    wrong = record(step=2)
    if fault == "score":
        wrong["scores"][0] = 0.9
    elif fault == "text":
        wrong["rollouts"][0]["text"] = "answer 7"
    else:
        wrong["teacher_scores"] = [0.5]
    steps = [record(step=step) for step in (1, 3, 4, 5)]
    page = report(write_journal(tmp_path, steps[0], wrong, *steps[1:]))
    assert "1 of 5 judged groups contradict themselves" in page.text
    assert "Records that contradict themselves" in page.text
    assert "This record contradicts itself" in page.text
    told = {
        "score": "The journal records 0.9, the evidence gives 0.7272727272727273",
        "text": "does not have the hash",
        "teacher": "⚠ mismatch",
    }
    assert told[fault] in page.text


def test_a_failed_group_shows_kind_stage_message_and_raw_replies(tmp_path: Path) -> None:
    page = report(write_journal(tmp_path, record(), failed("unparseable", word="odd")))
    assert "unparseable at stage verifier, endpoint e: gave up odd" in page.text
    assert "raw odd" in page.text
    assert "failed: unparseable 1" in page.text
    assert "left the batch without a reward" in page.text


def test_an_empty_journal_gives_a_page_that_says_so(tmp_path: Path) -> None:
    page = report(write_journal(tmp_path))
    assert "no judged group: it is empty" in page.text
    only_failed = report(write_journal(tmp_path, failed()))
    assert "The journal holds no judged group." in only_failed.text


def test_a_folder_without_journal_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal"):
        write_report(tmp_path, tmp_path / "report.html")


def test_a_rubric_a_student_gives_one_table_each(tmp_path: Path) -> None:
    both = record()
    panel = both["panels"][0]
    both["panels"] = [
        {**panel, "students": [k], "student_verdicts": [verdict], "order": [0, 1]}
        for k, verdict in enumerate(panel["student_verdicts"])
    ]
    page = report(write_journal(tmp_path, both))
    assert page.html.count('class="rubric"') == 2
    assert page.numbers == [8 / 11, 10 / 11, 5 / 11, 10 / 11, 8 / 11, 5 / 11, 0.0]


def test_figures_settings_and_curves_come_from_the_run(tmp_path: Path) -> None:
    run = write_journal(tmp_path, record(step=1), record(step=2))
    (run / "metrics").mkdir()
    line = {"step": 2, "data": {"val-core/sums/acc/mean@1": 0.25}}
    (run / "metrics" / "001.jsonl").write_text(json.dumps(line) + "\n")
    summary = {"accuracy_after": 0.25, "steps": 2, "journal": "/secret/place"}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "config.yaml").write_text(
        "seed: 7\nropd: {teacher_answers: 4}\nhome: /secret/place\n"
        "actor_rollout_ref: {model: {path: '${home}/student'}}\n"
    )
    page = report(run)
    assert "was hidden" not in page.text
    assert "accuracy after, sampled 0.250" in page.text
    assert "accuracy, sampled (held out): 0.250 → 0.250" in page.text
    assert "reward (mean of the judged rollouts): 0.394 → 0.394" in page.text
    assert "seed 7" in page.text
    assert "actor_rollout_ref.model.path student" in page.text
    assert "/secret" not in page.html


def test_the_page_says_how_much_of_the_judges_time_was_hidden(tmp_path: Path) -> None:
    run = write_journal(tmp_path, record(step=1), record(step=2))
    (run / "metrics").mkdir()
    lines = [
        {"step": step, "data": {STEP: 10.0, "timing_s/gen": 6.0, BUSY: 5.0, WAITED: waited}}
        for step, waited in ((1, 1.0), (2, 0.5))
    ]
    (run / "metrics" / "001.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    page = report(run)
    assert "judge was at work for 10.0 s" in page.text
    assert "For 1.5 s of them" in page.text
    assert "85.0 % of the judge's time was hidden" in page.text
    assert "waiting for the judge alone 0.750 s 7.5 %" in page.text
    assert "judge at work, share of the step: 0.500 → 0.500" in page.text
    assert "trainer waiting for the judge alone: 0.100 → 0.050" in page.text


def test_teacher_answers_are_shown_from_the_index_that_the_run_names(tmp_path: Path) -> None:
    judged = record()
    judged["teachers"] = [{"sha256": sha256("taught")}, {"sha256": sha256("lost")}]
    run = write_journal(tmp_path / "run", judged)
    index = tmp_path / "teachers"
    (run / "config.yaml").write_text(f"ropd: {{teacher_index: {index}}}\n")
    assert "is not where the run had it" in report(run).text
    with TeacherIndexWriter.open(index, Teacher("t")) as writer:
        writer.append([TeacherAnswer("f" * 64, "<think>hm</think> taught", "t")])
    page = report(run)
    assert "\ntaught" in page.texts
    assert "T2 not in the teacher index any more" in page.text
    assert "is not where the run had it" not in page.text


# --- parts and the command ------------------------------------------------------------------


def test_curves_keep_their_ends_and_lie_inside_the_drawing() -> None:
    drawn = chart({"long": {step: step / 5000 for step in range(5001)}, "empty": {}})
    assert drawn is not None
    (curve,) = drawn.curves
    assert len(curve.points) == 400
    assert (curve.points[0].step, curve.points[-1].step) == (0, 5000)
    assert curve.points[0].y > curve.points[-1].y
    assert 2 <= len(drawn.x_ticks) <= 11
    assert chart({"empty": {}}) is None
    assert chart({"one": {3: 0.5}}) is not None


def test_percentiles() -> None:
    assert percentile([], 50) is None
    assert percentile([2.0], 95) == 2.0
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0


def test_the_command_writes_beside_the_run_and_its_errors_are_one_line(tmp_path: Path) -> None:
    run = write_journal(tmp_path, record())
    result = CliRunner().invoke(app, ["report", str(run)])
    assert result.exit_code == 0, result.output
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not (run / "report.html.part").exists()
    wrong = CliRunner().invoke(app, ["report", str(run), "--steps", "9"])
    assert isinstance(wrong.exception, ConfigurationError)


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    run = write_journal(tmp_path / "run", record())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="--out"):
        write_report(run, tmp_path / "file" / "report.html")
    (run / "summary.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"summary\.json"):
        report(run)
    (run / "summary.json").unlink()
    (run / "config.yaml").write_text("seed: ${nowhere}\n")
    with pytest.raises(ConfigurationError, match=r"config\.yaml"):
        report(run)


def test_a_record_of_another_version_is_refused(tmp_path: Path) -> None:
    run = write_journal(tmp_path, {**record(), "schema_version": "ropd.judgement.v9"})
    with pytest.raises(JournalError, match=r"ropd\.judgement\.v9"):
        report(run)


def test_a_bare_journal_folder_is_a_run(tmp_path: Path) -> None:
    run = write_journal(tmp_path, record())
    assert report(run / "journal").numbers == report(run).numbers


def test_the_records_of_these_tests_are_scored_as_the_pipeline_scores() -> None:
    from algo.judge.replay import replay_record
    from algo.methods.registry import METHODS

    replayed = replay_record(record(), METHODS)
    assert replayed.exact
    assert student_scores(replayed.panels, 3) == replayed.scores
    assert teacher_scores(replayed.panels) == (10 / 11,)
