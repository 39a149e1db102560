"""Pools with equal answers, and panels as they are read back."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from algo.ropd.scoring import Pool, Repeats, RubricPanel, panel_figures, without_teachers
from tests.builders.rubrics import rubric_of

texts = st.lists(st.sampled_from("abc"), max_size=5)
MODES = st.sampled_from(["joint_blind", "joint_named", "isolated", "students_only"])


def verdict(text: str) -> tuple[bool, ...]:
    return (text == "a", text == "b")


@given(texts, texts, MODES, st.text(max_size=4))
def test_each_text_is_shown_once_and_each_place_gets_its_verdict(
    teachers: list[str], students: list[str], mode: Any, key: str
) -> None:
    teachers = list(dict.fromkeys(teachers))
    pool = Pool.shuffled(teachers, students, mode, key)
    shown = pool.shown
    authors = pool.sources(pool.order) or [""] * len(shown)
    assert len(set(zip(shown, authors, strict=True))) == len(shown)
    assert set(shown) == {*pool.teachers, *students}
    verdicts = pool.gathered([pool.order], [[verdict(text) for text in shown]])
    assert verdicts.teachers == tuple(map(verdict, pool.teachers))
    assert verdicts.students == tuple(map(verdict, students))
    twice = len(shown) - len(set(shown))
    assert (twice == 0) or mode == "joint_named"
    assert verdicts.asked_again == Repeats(2 * twice, 0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=2))
def test_a_judge_that_favours_a_name_contradicts_itself(said: list[tuple[bool, bool]]) -> None:
    pool = Pool.shuffled(["same"], ["same"], "joint_named", "k")
    verdicts = pool.gathered([(0, 1)], [said])
    assert (verdicts.teachers, verdicts.students) == ((said[0],), (said[1],))
    assert verdicts.asked_again == Repeats(2, sum(a != b for a, b in zip(*said, strict=True)))


def test_the_first_verdict_stands_and_later_ones_are_compared() -> None:
    pool = Pool(("t",), ("a", "b"), (1, 0, 2))
    verdicts = pool.gathered(
        [(1, 0), (0, 2)], [[(True, True), (False, True)], [(True, True), (False, False)]]
    )
    assert verdicts.teachers == ((False, True),)
    assert verdicts.students == ((True, True), (False, False))
    assert verdicts.asked_again == Repeats(2, 1)


@given(texts, texts, st.text(max_size=4))
def test_taking_out_the_teachers_leaves_each_student_its_text(
    teachers: list[str], students: list[str], key: str
) -> None:
    teachers = list(dict.fromkeys(teachers))
    full = Pool.shuffled(teachers, students, "joint_blind", key)
    order, same_as = without_teachers(full.order, full.same_as, len(teachers))
    pool = Pool((), tuple(students), order, "joint_blind", same_as)
    assert sorted(pool.shown) == sorted(set(students))
    verdicts = pool.gathered([pool.order], [[verdict(text) for text in pool.shown]])
    assert verdicts.students == tuple(map(verdict, students))


def test_a_panel_is_read_back_as_it_was_with_and_without_equal_answers() -> None:
    verdicts = ((True, False), (False, True), (False, True))
    plain = RubricPanel(rubric_of(1, 2), (0, 1, 2), (2, 0, 3, 1), ((True, True),), verdicts)
    shared = RubricPanel(
        rubric_of(1, 2), (0, 1, 2), (2, 0, 1), ((True, True),), verdicts, {3: 2}, Repeats(4, 1)
    )
    for panel in (plain, shared):
        assert RubricPanel.of(panel.record()) == panel
    assert [plain.shown_as(place) for place in range(4)] == [2, 4, 1, 3]
    assert [shared.shown_as(place) for place in range(4)] == [2, 3, 1, 1]
    figures = panel_figures([shared])
    assert figures["shared_verdict"] == [0.0, 0.0, 1.0]
    assert sorted(figures["contradiction"]) == [0.0, 0.0, 0.0, 1.0]
