"""Which of a prompt's stored answers are shown: m distinct ones, by seed and prompt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.errors import TeacherMissing
from algo.teacher.draw import DrawnAnswers, drawn
from algo.teacher.teacher_index import AnswerStatus, Teacher, TeacherAnswer, TeacherIndex
from algo.teacher.writer import TeacherIndexWriter

KEY = "ab" * 32
TEXTS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12)


def answers(texts: list[str], key: str = KEY) -> list[TeacherAnswer]:
    return [TeacherAnswer(key, f"<think>{k}</think> {text}\n", "t") for k, text in enumerate(texts)]


@given(TEXTS, st.integers(1, 5), st.integers(0, 99))
def test_as_many_distinct_texts_as_there_are_up_to_m_each_with_all_its_votes(
    texts: list[str], m: int, seed: int
) -> None:
    stored = answers(texts)
    shown = drawn(stored, m, seed, KEY)
    votes = Counter(answer.shown for answer in shown)
    assert len(votes) == min(m, len(set(texts)))
    assert all(votes[text] == texts.count(text) for text in votes)
    assert [answer for answer in stored if answer in shown] == list(shown)
    assert drawn(stored, m, seed, KEY) == shown


def test_seed_and_prompt_choose_and_every_answer_is_chosen_by_some() -> None:
    texts = list("abcdefgh")
    by_seed = {frozenset(a.shown for a in drawn(answers(texts), 3, s, KEY)) for s in range(60)}
    assert len(by_seed) > 20
    assert frozenset().union(*by_seed) == set(texts)
    keys = [f"{k:064x}" for k in range(60)]
    by_prompt = {frozenset(a.shown for a in drawn(answers(texts), 3, 0, key)) for key in keys}
    assert len(by_prompt) > 20


def test_an_index_serves_what_is_stored_behind_the_first_m(tmp_path: Path) -> None:
    path = tmp_path / "index"
    texts = ["a", "a", "a", "a", "b", "c", "d"]
    with TeacherIndexWriter.open(path, Teacher("t")) as writer:
        writer.append(answers(texts))
        writer.append([answers(["cut"])[0]._replace(status=AnswerStatus.TRUNCATED)])
    with TeacherIndex.open(path) as index:
        shown = DrawnAnswers(index, 0).answers(KEY, 4)
        assert Counter(answer.shown for answer in shown) == {"a": 4, "b": 1, "c": 1, "d": 1}
        assert [answer.shown for answer in index.answers(KEY, 4)] == ["a"] * 4
        with pytest.raises(TeacherMissing, match="7 of 8"):
            DrawnAnswers(index, 0).answers(KEY, 8)


def test_what_shows_nothing_is_not_served_whatever_its_status_says(tmp_path: Path) -> None:
    """Earlier versions imported answers without looking at them."""
    path = tmp_path / "index"
    nothing = ["<think>never ended", "<think>so</think> \n", " "]
    odd = [TeacherAnswer(KEY, text, "t") for text in nothing]
    words = TeacherAnswer(KEY, "<think> opens a block", "t", thinks=False)
    with TeacherIndexWriter.open(path, Teacher("t")) as writer:
        writer.append([*odd, words])
    with TeacherIndex.open(path) as index:
        assert index.count(KEY) == 1
        assert [answer.shown for answer in index.usable(KEY)] == ["<think> opens a block"]
        assert len(index.all_answers(KEY)) == 4
