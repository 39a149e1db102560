"""Grades by hand: what is read as one, what is not, and the reward that follows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from algo.asking.extraction import InvalidReply
from algo.judge.method import student_scores
from algo.methods.grades import Grade, grade_properties, parse_grade

TOPS = {"tjudge": 10, "ovd": 9}


def reply(score: Any) -> dict[str, Any]:
    return {"schema_version": "ropd.grade.v1", "score": score}


@pytest.mark.parametrize("top", TOPS.values(), ids=TOPS)
@given(grade=st.integers(0, 10))
def test_a_whole_number_on_the_scale_is_read_as_it_is(top: int, grade: int) -> None:
    if grade <= top:
        assert parse_grade(reply(grade), top) == grade


@pytest.mark.parametrize("top", TOPS.values(), ids=TOPS)
@given(
    odd=st.one_of(
        st.integers(max_value=-1),
        st.integers(min_value=11),
        st.floats(),
        st.booleans(),
        st.text(),
        st.integers(0, 10).map(str),
        st.integers(0, 10).map(float),
        st.none(),
        st.lists(st.integers(0, 10), max_size=2),
        st.dictionaries(st.text(max_size=3), st.integers(0, 10), max_size=2),
    )
)
def test_anything_else_is_invalid_and_never_clipped(top: int, odd: Any) -> None:
    with pytest.raises(InvalidReply):
        parse_grade(reply(odd), top)


def test_one_above_the_scale_is_told_the_scale() -> None:
    with pytest.raises(InvalidReply, match='"score" is 11; give one whole number from 0 to 10'):
        parse_grade(reply(11), 10)
    with pytest.raises(InvalidReply, match=r'"score" is 10; .* from 0 to 9'):
        parse_grade(reply(10), 9)
    with pytest.raises(InvalidReply, match="score"):
        parse_grade({"schema_version": "ropd.grade.v1"}, 10)
    with pytest.raises(InvalidReply, match="schema_version"):
        parse_grade({"schema_version": "ropd.grade.v2", "score": 5}, 10)


@pytest.mark.parametrize(
    ("grade", "top", "score", "spelled"),
    [
        (0, 10, 0.0, "0 of 10 = 0.000"),
        (7, 10, 0.7, "7 of 10 = 0.700"),  # the case study's rollout A under a scalar judge
        (10, 10, 1.0, "10 of 10 = 1.000"),
        (0, 9, 0.0, "0 of 9 = 0.000"),
        (5, 9, 5 / 9, "5 of 9 = 0.556"),
        (9, 9, 1.0, "9 of 9 = 1.000"),
    ],
)
def test_a_reward_is_the_grade_over_the_highest(
    grade: int, top: int, score: float, spelled: str
) -> None:
    panel = Grade((1, 3), grade, top)
    assert panel.scores() == (score, score)
    assert panel.spelled() == (spelled, spelled)
    assert student_scores([panel, Grade((0,), 0, top)], 4) == (0.0, score, 0.0, score)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 9), st.just(9))
def test_a_record_gives_the_same_panel_again(students: list[int], grade: int, top: int) -> None:
    panel = Grade(tuple(students), grade, top)
    assert panel.record() == {"students": students, "grade": grade, "top": top}
    assert Grade.of(panel.record()) == panel


@pytest.mark.parametrize("odd", [True, "7", 7.5, None])
def test_a_record_whose_grade_is_no_whole_number_is_refused(odd: Any) -> None:
    with pytest.raises(ValidationError):
        Grade.of({"students": [0], "grade": odd, "top": 10})


def test_the_schema_allows_the_scale_and_nothing_else() -> None:
    assert grade_properties(9) == {"score": {"type": "integer", "enum": list(range(10))}}
