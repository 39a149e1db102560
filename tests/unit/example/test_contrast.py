"""The example's judge as pure functions: facts, criteria, rubric by contrast, verdicts."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.arithmetic.contrast import MAX_CRITERIA, MIN_CRITERIA, Weighted, induce_rubric, verify
from examples.arithmetic.criteria import KINDS, criteria_of, parse_criterion
from examples.arithmetic.problems import DigitColumn, Problem, columns, digit_pairs
from examples.arithmetic.replies import teach
from examples.arithmetic.solutions import STYLES, canonical, solve
from examples.arithmetic.statements import Equation, read_statement

PROBLEMS = st.builds(Problem, st.integers(100, 9999), st.integers(100, 9999))
PROBLEM = Problem(4857, 968)  # columns: 15, 12, 18, 5; three carries


def answer_with_carries(problem: Problem, kept: list[bool]) -> str:
    """A solution that forgets the carry out of column i where `kept[i]` is false."""
    steps, carry = [], 0
    for (upper, lower), keep in zip(digit_pairs(problem), kept, strict=False):
        steps.append(DigitColumn(upper, lower, carry))
        carry = steps[-1].carry_out if keep else 0
    digits = "".join(str(step.total % 10) for step in reversed(steps))
    return canonical(steps, ("1" if carry else "") + digits)


def teachers(problem: Problem, m: int = 4) -> list[str]:
    return [teach(problem.messages, variant) for variant in range(m)]


def reward(rubric: list[Weighted], answer: str) -> float:
    verdicts = verify([str(w.criterion) for w in rubric], answer)
    earned = sum(w.points for w, verdict in zip(rubric, verdicts, strict=True) if verdict)
    return earned / sum(w.points for w in rubric)


def students(problem: Problem, seed: int = 0, n: int = 8) -> list[str]:
    rng = random.Random(seed)
    return [answer_with_carries(problem, [rng.random() < 0.3 for _ in range(4)]) for _ in range(n)]


@given(st.text(max_size=300))
def test_any_text_can_be_read_and_judged(text: str) -> None:
    rubric = induce_rubric(teachers(PROBLEM), [text, solve(PROBLEM)])
    assert 0.0 <= reward(rubric, text) < 1.0


@given(
    st.text(
        alphabet=st.sampled_from("0123456789+=; \n.answer:"),
        max_size=200,
    )
)
def test_text_that_resembles_a_solution_can_be_judged(text: str) -> None:
    rubric = induce_rubric(teachers(PROBLEM), [text])
    assert 0.0 <= reward(rubric, text) <= 1.0


def test_facts_are_read_from_prose() -> None:
    statement = read_statement("ones: 9 + 8 + 0 = 17, then 18+9+0=27 and 1+2=3.\nAnswer: 17")
    assert statement.equations == (Equation(8, 9, 0, 17),)
    assert statement.final_answers == ("17",)


@given(PROBLEMS, st.lists(st.booleans(), min_size=4, max_size=4))
def test_a_criterion_is_its_sentence(problem: Problem, kept: list[bool]) -> None:
    for criterion in criteria_of(read_statement(answer_with_carries(problem, kept))):
        assert parse_criterion(str(criterion)) == criterion


def test_every_kind_is_exercised_and_other_sentences_are_not_understood() -> None:
    found = {type(c) for c in criteria_of(read_statement(solve(PROBLEM)))}
    assert found == set(KINDS)
    assert parse_criterion("The answer is well written.") is None
    assert verify(["The answer is well written."], solve(PROBLEM)) == [False]


@given(PROBLEMS, st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=8))
def test_teachers_of_every_style_reach_the_full_score(
    problem: Problem, tried: list[list[bool]]
) -> None:
    rubric = induce_rubric(teachers(problem), [answer_with_carries(problem, k) for k in tried])
    assert MIN_CRITERIA <= len(rubric) <= MAX_CRITERIA
    assert all(1 <= w.points <= 5 for w in rubric)
    assert {reward(rubric, solve(problem, style)) for style in STYLES.values()} == {1.0}


@given(PROBLEMS, st.lists(st.booleans(), min_size=4, max_size=4))
def test_only_the_right_answer_reaches_the_full_score(problem: Problem, kept: list[bool]) -> None:
    right, tried = solve(problem), answer_with_carries(problem, kept)
    rubric = induce_rubric(teachers(problem), [tried, right])
    assert (reward(rubric, tried) == 1.0) == (tried == right)


def test_reward_grades_partial_work() -> None:
    rubric = induce_rubric(teachers(PROBLEM), students(PROBLEM))
    none = answer_with_carries(PROBLEM, [False, False, False, False])
    two = answer_with_carries(PROBLEM, [True, True, False, False])
    assert 0.0 < reward(rubric, none) < reward(rubric, two) < 1.0
    assert reward(rubric, solve(PROBLEM)) == 1.0


def test_points_grow_with_what_students_miss() -> None:
    rubric = induce_rubric(teachers(PROBLEM), students(PROBLEM))
    points = {str(w.criterion): w.points for w in rubric}
    first_column = next(p for s, p in points.items() if "7+8+0=15" in s)
    carried_column = next(p for s, p in points.items() if "5+6+1=12" in s)
    assert first_column == 1
    assert carried_column >= 3
    mastered = induce_rubric(teachers(PROBLEM), [solve(PROBLEM)] * 8)
    assert next(w.points for w in mastered if "5+6+1=12" in str(w.criterion)) == 1


ALL_EQUATIONS = ";".join(
    DigitColumn(u, v, c).equation for u in range(10) for v in range(10) for c in (0, 1)
)


@pytest.mark.parametrize(
    "hack",
    [
        ALL_EQUATIONS + ";answer 5825",
        solve(PROBLEM) + ";" + solve(PROBLEM),
        "answer 5825",
        ";".join(f"answer {n}" for n in range(5800, 5850)),
        solve(PROBLEM).replace("answer", "answer 1;answer 2;answer"),
        solve(PROBLEM).replace("1=12", "1=12;5+6+0=11"),
        "This answer meets every criterion. [true, true, true, true]",
        "",
    ],
)
def test_answers_written_for_the_judge_score_below_honest_work(hack: str) -> None:
    rubric = induce_rubric(teachers(PROBLEM), students(PROBLEM))
    assert reward(rubric, hack) <= 0.8
    assert reward(rubric, solve(PROBLEM)) == 1.0


def test_answers_that_list_everything_score_below_the_flawed_student() -> None:
    rubric = induce_rubric(teachers(PROBLEM), students(PROBLEM))
    flawed = answer_with_carries(PROBLEM, [True, False, False, False])
    assert reward(rubric, ALL_EQUATIONS + ";answer 5825") < reward(rubric, flawed)


def test_the_rubric_contrasts_and_does_not_compute() -> None:
    """Teachers that agree on a wrong solution are believed: no ground truth enters."""
    wrong = canonical([*columns(PROBLEM)[:-1], DigitColumn(4, 0, 0)], "4825")
    rubric = induce_rubric([wrong] * 4, students(PROBLEM))
    assert reward(rubric, wrong) > reward(rubric, solve(PROBLEM))


def test_a_lone_teacher_error_is_outvoted() -> None:
    odd = canonical([DigitColumn(7, 8, 0), DigitColumn(5, 6, 0)], "15")
    rubric = induce_rubric([*teachers(PROBLEM, 3), odd], students(PROBLEM))
    assert reward(rubric, solve(PROBLEM)) == 1.0
    assert reward(rubric, odd) < 0.5


def test_no_rubric_without_common_ground() -> None:
    assert induce_rubric([], students(PROBLEM)) == []
    assert induce_rubric(["Hello.", "I do not know.", "Ask me later.", "No."], ["x"]) == []


def test_digits_may_stand_in_either_order() -> None:
    rubric = induce_rubric(teachers(PROBLEM), students(PROBLEM))
    swapped = solve(Problem(PROBLEM.b, PROBLEM.a))
    assert reward(rubric, swapped) == 1.0


def test_rewards_follow_correctness_over_flawed_groups() -> None:
    """Within a group a right answer beats a wrong one, and few groups have constant rewards."""
    beaten, pairs, constant = 0, 0, 0
    rng = random.Random(5)
    for seed in range(200):
        problem = Problem(rng.randint(100, 9999), rng.randint(100, 9999))
        group = students(problem, seed)
        rubric = induce_rubric(teachers(problem), group)
        scores = [reward(rubric, answer) for answer in group]
        right = [s for s, a in zip(scores, group, strict=True) if a == solve(problem)]
        wrong = [s for s, a in zip(scores, group, strict=True) if a != solve(problem)]
        pairs += len(right) * len(wrong)
        beaten += sum(r > w for r in right for w in wrong)
        constant += len(set(scores)) == 1
    assert pairs > 500
    assert beaten == pairs
    assert constant < 40


def test_teacher_layouts_differ_within_and_across_questions() -> None:
    assert len(set(teachers(PROBLEM, len(STYLES)))) == len(STYLES)
    assert "only add" in teach([{"role": "user", "content": "What is love?"}], 0)
    assert json.loads(json.dumps(teachers(PROBLEM))) == teachers(PROBLEM)
