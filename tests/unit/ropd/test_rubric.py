"""Rubrics, verdicts and the weighted pass rate."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.asking.extraction import InvalidReply
from algo.judge.method import student_scores, teacher_scores
from algo.ropd.rubric import (
    parse_rubric,
    parse_verdicts,
    rubric_json_schema,
    verifier_json_schema,
    weighted_pass_rate,
)
from algo.ropd.scoring import Pool, RubricPanel, shuffle_key, shuffle_order
from tests.builders.rubrics import rubric_of

RANGE = (4, 12)


def rubric_reply(count: int = 4) -> dict[str, Any]:
    return {
        "schema_version": "ropd.rubric.v1",
        "rubrics": [
            {
                "criterion_id": f"c{k}",
                "category": "General Reasoning",
                "criterion": f"Holds {k}.",
                "points": 2,
            }
            for k in range(1, count + 1)
        ],
        "maximum_score": 2 * count,
    }


def verifier_reply(*judgements: list[bool]) -> dict[str, Any]:
    return {
        "schema_version": "ropd.batch_verifier.v2",
        "answers": [
            {"answer_index": index, "judgement": judgement}
            for index, judgement in enumerate(judgements, start=1)
        ],
    }


judged = st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=40)


@given(judged)
def test_the_weighted_pass_rate_is_the_exact_quotient_within_rounding(
    decisions: list[tuple[int, bool]],
) -> None:
    rubric = rubric_of(*(points for points, _ in decisions))
    score = weighted_pass_rate(rubric, tuple(passed for _, passed in decisions))
    exact = Fraction(
        sum(points for points, passed in decisions if passed),
        sum(points for points, _ in decisions),
    )
    assert 0.0 <= score <= 1.0
    assert abs(Fraction(score) - exact) < Fraction(1, 10**12)


def test_the_case_study_of_the_paper() -> None:
    rubric = rubric_of(5, 5, 4, 5, 3)  # Table 4
    assert weighted_pass_rate(rubric, (True, False, True, True, True)) == 17 / 22
    assert weighted_pass_rate(rubric, (True, False, False, False, False)) == 5 / 22


def test_a_verdict_of_another_length_is_no_score() -> None:
    with pytest.raises(ValueError, match="zip"):
        weighted_pass_rate(rubric_of(1, 2), (True,))


@given(st.integers(0, 2**32), st.text(max_size=20), st.integers(1, 16), st.data())
def test_shuffling_never_changes_a_score(seed: int, prompt: str, size: int, data: Any) -> None:
    rubric = rubric_of(1, 2, 3, 4)
    pool = [tuple(data.draw(st.lists(st.booleans(), min_size=4, max_size=4))) for _ in range(size)]
    answers = [str(number) for number in range(size)]
    shuffled = Pool.shuffled((), answers, "joint_blind", shuffle_key(seed, prompt, 0, range(size)))
    assert sorted(shuffled.order) == list(range(size))
    back = shuffled.gathered([shuffled.order], [[pool[int(each)] for each in shuffled.shown]])
    panel = RubricPanel(rubric, tuple(range(size)), shuffled.order, (), back.students)
    assert student_scores([panel], size) == tuple(weighted_pass_rate(rubric, v) for v in pool)


def test_the_shuffle_depends_on_seed_prompt_occurrence_and_panel_alone() -> None:
    def order(seed: int, prompt: str, occurrence: int, students: tuple[int, ...]) -> Any:
        return shuffle_order(shuffle_key(seed, prompt, occurrence, students), 12)

    base = order(0, "p", 0, (1, 2))
    assert base == order(0, "p", 0, (1, 2))
    others = [order(1, "p", 0, (1, 2)), order(0, "q", 0, (1, 2)), order(0, "p", 1, (1, 2))]
    others.append(order(0, "p", 0, (3, 2)))
    assert all(base != other for other in others)


def test_rollouts_in_no_panel_score_zero_and_teachers_are_averaged_over_panels() -> None:
    rubric = rubric_of(1, 3)
    panels = [
        RubricPanel(rubric, (2,), (0, 1), ((True, True),), ((False, True),)),
        RubricPanel(rubric, (0,), (0, 1), ((True, False),), ((True, False),)),
    ]
    assert student_scores(panels, 4) == (0.25, 0.0, 0.75, 0.0)
    assert teacher_scores(panels) == (0.625,)
    assert teacher_scores([]) == ()


def test_extra_keys_and_lying_totals_are_tolerated() -> None:
    reply = {**rubric_reply(), "maximum_score": 99, "note": "hi"}
    reply["rubrics"][0]["why"] = "because"
    assert parse_rubric(reply, RANGE).total == 8
    verdicts = verifier_reply([True, False, True, False])
    verdicts["answers"][0]["final_score"] = 99
    assert parse_verdicts(verdicts, 1, parse_rubric(reply, RANGE)) == ((True, False, True, False),)


def spoiled_rubrics() -> list[tuple[str, dict[str, Any]]]:
    cases = []
    for name, path, value in (
        ("schema_version", ("schema_version",), "ropd.rubric.v2"),
        ("points 0", ("rubrics", 0, "points"), 0),
        ("points 6", ("rubrics", 0, "points"), 6),
        ("points as float", ("rubrics", 0, "points"), 2.0),
        ("points as text", ("rubrics", 0, "points"), "2"),
        ("points as boolean", ("rubrics", 0, "points"), True),
        ("empty criterion", ("rubrics", 0, "criterion"), " \n"),
        ("criterion missing", ("rubrics", 0, "criterion"), None),
        ("double id", ("rubrics", 1, "criterion_id"), "c1"),
        ("gap in ids", ("rubrics", 3, "criterion_id"), "c9"),
        ("no list", ("rubrics",), {"c1": 1}),
        ("unknown category", ("rubrics", 0, "category"), "Form"),
        ("a flood", ("rubrics", 0, "criterion"), "x" * 4001),
    ):
        reply = copy.deepcopy(rubric_reply())
        place: Any = reply
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        cases.append((name, reply))
    return [*cases, ("too few", rubric_reply(3)), ("too many", rubric_reply(13))]


@pytest.mark.parametrize(("name", "reply"), spoiled_rubrics(), ids=lambda case: str(case)[:20])
def test_a_rubric_that_breaks_the_schema_is_refused(name: str, reply: dict[str, Any]) -> None:
    with pytest.raises(InvalidReply):
        parse_rubric(reply, RANGE)


@pytest.mark.parametrize(
    "reply",
    [
        verifier_reply([True, True]),
        verifier_reply([True, True], [True, True], [True, True]),
        verifier_reply([True, True], [True]),
        verifier_reply([True, True], [True, True, False]),
        {**verifier_reply([True, True], [True, True]), "schema_version": "other"},
        {"schema_version": "ropd.batch_verifier.v2"},
        verifier_reply([True, True], [True, 1]),  # pyright: ignore[reportArgumentType]
        verifier_reply([True, True], [True, "true"]),  # pyright: ignore[reportArgumentType]
        verifier_reply([True, True], [True, None]),  # pyright: ignore[reportArgumentType]
    ],
)
def test_verdicts_that_do_not_fit_the_request_are_refused(reply: dict[str, Any]) -> None:
    with pytest.raises(InvalidReply):
        parse_verdicts(reply, 2, rubric_of(1, 2))


@pytest.mark.parametrize("indices", [(1, 1), (0, 1), (2, 3), (1, 3)])
def test_each_answer_index_must_occur_exactly_once(indices: tuple[int, int]) -> None:
    reply = verifier_reply([True, True], [True, True])
    for entry, index in zip(reply["answers"], indices, strict=True):
        entry["answer_index"] = index
    with pytest.raises(InvalidReply, match="exactly once"):
        parse_verdicts(reply, 2, rubric_of(1, 2))


def test_entries_in_another_order_are_put_right() -> None:
    reply = verifier_reply([True, False], [False, True])
    reply["answers"].reverse()
    assert parse_verdicts(reply, 2, rubric_of(1, 2)) == ((True, False), (False, True))


def test_the_message_names_the_place_for_the_repair_turn() -> None:
    reply = rubric_reply()
    reply["rubrics"][2]["points"] = 9
    with pytest.raises(InvalidReply, match=r"rubrics\[2\]\.points"):
        parse_rubric(reply, RANGE)


def test_the_json_schemas_forbid_what_strict_mode_does_not_take() -> None:
    def check(schema: Mapping[str, Any]) -> None:
        if schema["type"] == "object":
            assert schema["additionalProperties"] is False
            assert schema["required"] == list(schema["properties"])
            for part in schema["properties"].values():
                check(part)
        if schema["type"] == "array":
            check(schema["items"])

    check(rubric_json_schema(RANGE))
    check(verifier_json_schema(12, 7))


def test_the_verifier_schema_has_one_place_for_each_answer() -> None:
    answers = verifier_json_schema(12, 7)["properties"]["answers"]
    assert list(answers["properties"]) == [str(index) for index in range(1, 13)]
    for index, entry in answers["properties"].items():
        assert entry["properties"]["answer_index"]["enum"] == [int(index)]
        judgement = entry["properties"]["judgement"]
        assert judgement["minItems"] == judgement["maxItems"] == 7


def by_number(*judgements: list[bool]) -> dict[str, Any]:
    reply = verifier_reply(*judgements)
    return {**reply, "answers": {str(e["answer_index"]): e for e in reply["answers"]}}


def test_answers_by_number_are_those_of_the_list() -> None:
    judgements = [[True, False], [False, True]]
    rubric = rubric_of(1, 2)
    assert parse_verdicts(by_number(*judgements), 2, rubric) == ((True, False), (False, True))
    short = {"1": {"judgement": [True, False]}, "2": {"judgement": [False, True]}}
    reply = {**by_number(), "answers": short}
    assert parse_verdicts(reply, 2, rubric) == ((True, False), (False, True))


@pytest.mark.parametrize(
    "answers",
    [
        {"1": {"answer_index": 2, "judgement": [True]}},
        {"one": {"judgement": [True]}},
        {"\u0661": {"judgement": [True]}},
        {"9" * 5000: {"judgement": [True]}},
        {"1": {"judgement": [True]}, "01": {"judgement": [True]}},
        {"1": [True]},
        {"1": {"judgement": [True]}, "2": {"judgement": [True]}},
        {},
    ],
    ids=lambda answers: str(answers)[:20],
)
def test_answers_under_wrong_numbers_are_refused_in_a_few_words(answers: dict[str, Any]) -> None:
    with pytest.raises(InvalidReply) as refused:
        parse_verdicts({**by_number(), "answers": answers}, 1, rubric_of(1))
    assert len(str(refused.value)) < 400


def test_criteria_without_ids_are_numbered_by_place() -> None:
    reply = rubric_reply()
    for criterion in reply["rubrics"]:
        del criterion["criterion_id"]
    ids = [criterion.criterion_id for criterion in parse_rubric(reply, RANGE).criteria]
    assert ids == ["c1", "c2", "c3", "c4"]


def test_categories_are_read_whatever_their_case_and_others_are_named() -> None:
    reply = rubric_reply()
    reply["rubrics"][1]["category"] = " task  COMPLETION\n"
    assert parse_rubric(reply, RANGE).criteria[1].category == "Task Completion"
    reply["rubrics"][1]["category"] = "Form"
    with pytest.raises(InvalidReply, match=r'rubrics\[1\]\.category.*"Form".*"General Reasoning"'):
        parse_rubric(reply, RANGE)


def test_a_criterion_that_repeats_another_is_refused_by_both_places() -> None:
    reply = rubric_reply()
    reply["rubrics"][2]["criterion"] = " holds\n1. "
    with pytest.raises(InvalidReply, match='"criterion" of c3 is that of c1 again: replace it'):
        parse_rubric(reply, RANGE)


@pytest.mark.parametrize(
    "text",
    [
        "Matches TEACHER ANSWER 2.",
        "Unlike Student Answer 1, it checks the case n = 0.",
        "See ANSWER 3.",
        "Does what the teacher's answer #2 does.",
        "Covers the cases of teacher answers 1 and 3.",
        "Avoids the slip of the second student attempt.",
        "Gives the same result as answer 3.",
        "Agrees with answer 2.",
        "Follows TEACHER_ANSWER_2.",
        "Follows reference solution no. 3.",
    ],
)
def test_a_criterion_that_names_an_answer_by_number_is_refused(text: str) -> None:
    reply = rubric_reply()
    reply["rubrics"][3]["criterion"] = text
    with pytest.raises(InvalidReply, match=r'"criterion" of c4 speaks of .*: say what must stand'):
        parse_rubric(reply, RANGE)


@pytest.mark.parametrize(
    "text",
    [
        "States the final answer 28.",
        "States answer 3.",
        "Answers part 3.",
        "Ends with Answer: 3.",
        "Lists students 1 to 3 in order.",
        "Names the second answer choice.",
        "Closes its thinking with </think>.",
    ],
)
def test_a_criterion_that_speaks_of_a_result_stands(text: str) -> None:
    reply = rubric_reply()
    reply["rubrics"][3]["criterion"] = text
    assert parse_rubric(reply, RANGE).criteria[3].criterion == text
