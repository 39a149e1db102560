"""The embedded judge as a grader: bounded, the same each time, highest for what is right alone."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.asking.context import ContextWindow
from algo.asking.form import Form
from algo.asking.templates import Block, PromptTemplate, numbered
from algo.methods.grades import GRADE_SCHEMA, grade_properties, parse_grade
from algo.ropd.settings import VerifierSettings
from examples.arithmetic import rendered_prompt
from examples.arithmetic.grades import give_grade
from examples.arithmetic.problems import Problem
from examples.arithmetic.rendered_prompt import read_prompt
from examples.arithmetic.solutions import STYLES, solve

PROBLEM = Problem(4857, 968)
RIGHT = solve(PROBLEM)
FORGOT_ONE = "7+8+0=15;5+6+1=12;8+9+1=18;4+0+0=4;answer 4825"
FORGOT_ALL = "7+8+0=15;5+6+0=11;8+9+0=17;4+0+0=4;answer 4715"


def said(answer: str, name: str = "tjudge", top: int = 10, teachers: tuple[str, ...] = ()) -> str:
    """The reply to a prompt as the run renders it."""
    placeholders = ["nonce", "top", "question", "answer", *(["teacher_answers"] * bool(teachers))]
    form = Form(
        PromptTemplate.load(name, placeholders),
        ContextWindow("verifier", VerifierSettings(), "cut"),
        GRADE_SCHEMA,
        grade_properties(top),
        lambda payload: parse_grade(payload, top),
        {"top": str(top)},
    )
    shown = {"teacher_answers": numbered("TEACHER ANSWER", teachers)} if teachers else {}
    query = form.query(PROBLEM.question, {**shown, "answer": [Block("ANSWER", answer)]})
    return give_grade(read_prompt(query.prompt))


def graded(answer: str, name: str = "tjudge", top: int = 10, teachers: tuple[str, ...] = ()) -> int:
    return parse_grade(json.loads(said(answer, name, top, teachers)), top)


@pytest.mark.parametrize(("name", "top"), [("tjudge", 10), ("ovd", 9)])
def test_right_is_highest_worse_is_lower_nothing_is_zero(name: str, top: int) -> None:
    grades = [graded(answer, name, top) for answer in (RIGHT, FORGOT_ONE, FORGOT_ALL, "no idea")]
    assert grades == sorted(grades, reverse=True)
    assert grades[0] == top
    assert 0 < grades[1] < top
    assert grades[-1] == 0


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_every_layout_of_a_right_answer_is_right(style) -> None:
    assert graded(solve(PROBLEM, style)) == 10


def test_teacher_answers_are_what_it_compares_with_where_it_is_shown_them() -> None:
    wrong = tuple([FORGOT_ALL] * 4)
    assert graded(FORGOT_ALL, "tjudge_reference", teachers=wrong) == 10
    assert graded(RIGHT, "tjudge_reference", teachers=wrong) < 10
    assert graded(RIGHT, "tjudge_reference", teachers=(RIGHT, solve(PROBLEM))) == 10


@given(st.text(max_size=60), st.sampled_from([RIGHT, FORGOT_ONE, ""]))
def test_any_text_has_one_grade_on_the_scale(text: str, beside: str) -> None:
    answer = f"{beside}\n{text}"
    assert 0 <= graded(answer) <= 10
    assert graded(answer) == graded(answer)


def test_a_prompt_that_it_does_not_know_is_answered_in_prose() -> None:
    assert not give_grade(read_prompt("from 0 to 10 " + GRADE_SCHEMA)).startswith("{")


def test_the_example_writes_the_wire_format_of_the_product() -> None:
    assert rendered_prompt.GRADE_SCHEMA == GRADE_SCHEMA
