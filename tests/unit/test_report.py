"""The report: which groups it shows, that its numbers are the journal's, that texts stay texts."""

from __future__ import annotations

import asyncio
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from algo.cli import app
from algo.report import write_report
from algo.report.census import Census, Entry, percentile
from algo.report.chart import chart
from algo.report.page import fitted
from algo.report.run_facts import RunFacts
from algo.report.selection import SPECIAL_SHOWN, parse_steps, select
from algo.report.text import excerpt, visible
from algo.ropd.errors import ConfigurationError, JournalError
from algo.ropd.journal import Journal
from algo.ropd.record import sha256
from algo.ropd.scoring import student_scores, teacher_scores
from algo.ropd.teacher_index import Teacher, TeacherAnswer
from algo.ropd.teacher_index_writer import TeacherIndexWriter
from ropd_verl.judge_time import BUSY, WAITED
from ropd_verl.step_times import STEP

NO_FACTS = RunFacts("example/001", (), (), {})


def entry(
    position: int, step: int, scores: Sequence[float] | None = None, failure: str | None = None
) -> Entry:
    judged = None if scores is None else tuple(scores)
    return Entry(position, step, judged, failure, latency_s=1.0, exact=True)


def record(
    texts: Sequence[str] = ("answer 5", "<think>so</think>answer 6", "cut"),
    *,
    step: int = 1,
    failure: dict[str, Any] | None = None,
    word: str = "word",
) -> dict[str, Any]:
    """A judged record of criteria worth 5, 3, 2 and 1: the last rollout is scored by a rule."""
    count = len(texts) - 1
    student = [[True, k % 2 == 0, False, False] for k in range(count)]
    common = {
        "schema_version": "ropd.judgement.v1",
        "judgement_id": f"judgement {word}",
        "uid": f"uid {word}",
        "step": step,
        "fingerprint": "f" * 64,
        "time": "2026-01-01T00:00:00.000+00:00",
        "latency_s": 2.5,
        "question": f"question {word}",
        "teachers": [{"sha256": "a" * 64}],
        "rollouts": [
            {"text": text, "sha256": sha256(text), "finished": k < count}
            for k, text in enumerate(texts)
        ],
        "rubric_mode": "shared",
        "verification_mode": "joint_blind",
        "shuffle_seed": 0,
        "templates": {"rubricator": "b" * 64, "verifier": "c" * 64},
        "roles": {role: {"model": f"model {word}"} for role in ("rubricator", "verifier")},
        "calls": [
            {
                "stage": "rubricator",
                "fault": f"unparseable: {word}",
                "cut_characters": 0,
                "raw": f"raw {word}",
                "length": len(f"raw {word}"),
                "finish_reason": "stop",
                "model": f"model {word}",
                "prompt_tokens": 10,
                "completion_tokens": None,
                "latency_s": 1.5,
                "attempts": 2,
            },
            {"stage": "verifier", "fault": f"timeout: {word}"},
        ],
    }
    if failure is not None:
        return {**common, "status": "failed", "failure": failure}
    whole = word.encode(
        "utf-8", "replace"
    ).decode()  # pydantic lets no lone surrogate into a rubric
    criteria = [
        {
            "criterion_id": f"c{k}",
            "category": f"category {whole}",
            "criterion": f"criterion {k} {whole}",
            "points": points,
        }
        for k, points in enumerate((5, 3, 2, 1), start=1)
    ]
    panel = {
        "rubric": criteria,
        "students": list(range(count)),
        "order": [*range(1, count + 1), 0],
        "teacher_verdicts": [[True, True, True, False]],
        "student_verdicts": student,
    }
    points = (5, 3, 2, 1)
    scores = [sum(p for p, v in zip(points, verdict, strict=True) if v) / 11 for verdict in student]
    return {
        **common,
        "status": "judged",
        "rules": [None] * count + ["unfinished"],
        "panels": [panel],
        "scores": [*scores, 0.0],
        "teacher_scores": [10 / 11],
    }


def failed(kind: str = "timeout", *, step: int = 1, word: str = "word") -> dict[str, Any]:
    failure = {"kind": kind, "stage": "verifier", "endpoint": "e", "message": f"gave up {word}"}
    return record(step=step, failure=failure, word=word)


def write_journal(run: Path, *records: dict[str, Any]) -> Path:
    async def write() -> None:
        journal = Journal(run / "journal", 20_000)
        for each in records:
            await journal.append(each)
        await journal.aclose()

    asyncio.run(write())
    return run


def report(run: Path, **options: Any) -> Page:
    out = run / "page" / "report.html"
    write_report(run, out, **options)
    return parsed(out.read_bytes().decode())


@dataclass
class Page:
    html: str
    tags: list[tuple[str, tuple[tuple[str, str | None], ...]]]
    texts: list[str]
    numbers: list[float]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page("", [], [], [])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.tags.append((tag, tuple(attrs)))
        if tag == "data":
            self.page.numbers.append(float(dict(attrs)["value"] or "nan"))

    def handle_data(self, data: str) -> None:
        self.page.texts.append(data)


def parsed(html: str) -> Page:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    reader.page.html = html
    return reader.page


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
    assert "replayed from their booleans: every reward is the recorded one" in page.text
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
        "score": "The journal records 0.9, the booleans give 0.7272727272727273",
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


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    page = report(write_journal(tmp_path, record(), failed()))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "object", "embed", "base", "form", "audio"}
    for tag, attributes in page.tags:
        for name, value in attributes:
            assert not name.startswith("on")
            if name in ("href", "src", "action"):
                assert (value or "").startswith("#") or (tag, value) == ("link", "data:,")
    assert "url(" not in page.html
    assert "@import" not in page.html
    assert "default-src 'none'" in page.html


# --- hostile and endless texts --------------------------------------------------------------

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</pre></details></article></body></html><h1>reward 1.0</h1>",
    '"><svg onload=alert(1)>',
    "{{ 7 * 7 }} {% include '/etc/passwd' %}",
    "<!-- ",
    "]]><![CDATA[",
    "a lone \ud800 surrogate, \x00 and \u202e reversed",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_shown_as_they_are(tmp_path: Path, text: str) -> None:
    page = report(write_journal(tmp_path, record([text, "x", "y"]), failed(word=text)))
    assert f"\n{visible(text)}" in page.texts
    assert not any(tag in ("script", "img") for tag, _ in page.tags)


@given(
    st.text(st.characters(), min_size=1, max_size=80).filter(lambda text: "</think>" not in text)
)
@settings(deadline=None, max_examples=60)
def test_no_text_changes_the_structure_of_the_page(text: str) -> None:
    def page(word: str) -> Page:
        records = [record([word, word, word], word=word), failed(word=word)]
        census = Census((entry(0, 1, [8 / 11, 5 / 11, 0.0]), entry(1, 1, None, "timeout")), {})
        chosen = select(census, None, None)
        texts = {"a" * 64: word}
        return parsed(
            fitted(census, chosen, NO_FACTS, dict(enumerate(records)), texts, 10**7).decode()
        )

    shown = page(text)
    assert shown.tags == page("word").tags
    assert shown.texts.count(f"\n{visible(text)}") == 5  # three rollouts, a teacher twice
    assert f"\nquestion {visible(text)}" in shown.texts


@given(st.text(st.characters(), max_size=50))
def test_visible_text_can_be_written_and_hides_nothing(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert not {unicodedata.category(each) for each in set(shown) - set("\n\t\u200c\u200d")} & {
        "Cc",
        "Cf",
        "Cs",
    }
    plain = "".join(character for character in text if character.isprintable())
    assert visible(plain) == plain


def test_what_reorders_or_hides_text_is_spelled_out() -> None:
    assert visible("a\u202eb\u200bc\x1bd\ud800e\r\n\t") == (
        "a<U+202E>b<U+200B>c<U+001B>d<U+D800>e<U+000D>\n\t"
    )


@given(st.text(max_size=60), st.integers(1, 50))
def test_an_excerpt_keeps_both_ends_and_counts_what_it_leaves_out(text: str, limit: int) -> None:
    part = excerpt(text, limit)
    assert len(part.head + part.tail) + part.cut == len(text)
    assert len(part.head + part.tail) <= max(limit, 0)
    assert text.startswith(part.head)
    assert text.endswith(part.tail)


def test_endless_texts_are_cut_to_keep_the_bound_and_the_page_says_so(tmp_path: Path) -> None:
    long = [record(["&" * 50_000] * 13, step=step) for step in range(1, 5)]
    run = write_journal(tmp_path, *long)
    page = report(run)
    assert len(page.html.encode()) <= 3_000_000
    assert "characters left out here" in page.text
    larger = report(run, max_mb=30.0)
    assert len(larger.html.encode()) > 3_000_000
    assert "Texts longer than 20,000 characters" in larger.text


def test_groups_are_left_out_when_cutting_texts_is_not_enough(tmp_path: Path) -> None:
    run = write_journal(tmp_path, *(record(["x" * 400] * 65, step=step) for step in (1, 2, 3)))
    page = report(run, max_mb=0.12)
    assert len(page.html.encode()) <= 120_000
    assert "groups were left out to keep the page small" in page.text
    assert "1 of the journal's 3 groups" in page.text


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
    from algo.ropd.replay import replay_record

    replayed = replay_record(record())
    assert replayed.exact
    assert student_scores(replayed.panels, 3) == replayed.scores
    assert teacher_scores(replayed.panels) == (10 / 11,)
