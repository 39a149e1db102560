"""Statistics of an index: counts, lengths, effective distinct answers, agreement with truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from algo.data.fingerprint import prompt_fingerprint
from algo.data.prompt_file import PromptRow
from algo.teacher.stats import IndexStats, index_stats
from algo.teacher.teacher_index import AnswerStatus, Teacher, TeacherAnswer, TeacherIndex
from algo.teacher.writer import TeacherIndexWriter


def prompt(i: int, truth: str | None = "5", source: str = "arithmetic") -> PromptRow:
    messages = [{"role": "user", "content": f"q{i}"}]
    return PromptRow(i, messages, prompt_fingerprint(messages), source, truth)


def stats(path: Path, answers: list[TeacherAnswer], **options: object) -> IndexStats:
    with TeacherIndexWriter.open(path, Teacher("t")) as writer:
        writer.append(answers)
    with TeacherIndex.open(path) as index:
        return index_stats(index, **options)  # type: ignore[arg-type]


def answer(i: int, text: str, status: AnswerStatus = AnswerStatus.USABLE) -> TeacherAnswer:
    return TeacherAnswer(
        prompt(i).fingerprint, text, "t", status, prompt_tokens=2, completion_tokens=3
    )


@pytest.fixture
def answers() -> list[TeacherAnswer]:
    return [
        answer(0, "answer 5"),
        answer(0, "answer 5"),
        answer(0, "so answer 5"),
        answer(1, "answer 6"),
        answer(1, "cut", AnswerStatus.TRUNCATED),
        answer(2, "no", AnswerStatus.REFUSED),
    ]


def test_counts(tmp_path: Path, answers: list[TeacherAnswer]) -> None:
    counted = stats(tmp_path / "i", answers)
    assert (counted.prompts, counted.answers) == (3, 6)
    assert counted.by_status == {"usable": 4, "truncated": 1, "refused": 1}
    assert counted.usable_per_prompt == {0: 1, 1: 1, 3: 1}
    assert counted.distinct_per_prompt == 1.5
    assert counted.shown_per_prompt == 1.5
    assert counted.prompts_repeating == 1
    assert (counted.prompt_tokens, counted.completion_tokens) == (12, 18)
    assert counted.lengths.histogram == {8: 3, 16: 1}
    assert (counted.lengths.smallest, counted.lengths.largest) == (8, 11)
    assert counted.agreement is None


def test_what_training_shows_is_counted(tmp_path: Path) -> None:
    """Without thinking, equal texts once, at most m, and nothing that holds no answer."""
    texts = ["<think>a</think>5", "<think>longer</think> 5\n", "<think>never ended", "6", "7"]
    counted = stats(tmp_path / "i", [answer(0, text) for text in texts], m=2)
    assert counted.usable_per_prompt == {4: 1}
    assert (counted.distinct_per_prompt, counted.shown_per_prompt) == (3.0, 2.0)
    assert counted.lengths.largest == 1


def test_coverage_and_agreement_with_a_data_file(
    tmp_path: Path, answers: list[TeacherAnswer]
) -> None:
    rows = [prompt(0), prompt(1), prompt(7), prompt(2, source="poetry"), prompt(8, truth=None)]
    by_fingerprint = {row.fingerprint: row for row in rows}
    counted = stats(tmp_path / "i", answers, prompts=by_fingerprint, m=3, grade_at_most=100)
    assert (counted.data_prompts, counted.data_covered, counted.not_in_data) == (5, 1, 0)
    assert counted.graded == 4
    assert counted.agreement == 0.75


def test_grading_is_a_sample_of_at_most_so_many(
    tmp_path: Path, answers: list[TeacherAnswer]
) -> None:
    by_fingerprint = {prompt(i).fingerprint: prompt(i) for i in range(3)}
    counted = stats(tmp_path / "i", answers, prompts=by_fingerprint, grade_at_most=2)
    assert counted.graded == 2


def test_empty_index(tmp_path: Path) -> None:
    counted = stats(tmp_path / "i", [])
    assert (counted.prompts, counted.distinct_per_prompt, counted.lengths.largest) == (0, 0.0, 0)
