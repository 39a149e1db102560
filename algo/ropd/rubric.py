"""Rubric, verdict and the weighted pass rate: values and pure functions.

The wire formats are `ropd.rubric.v1` and `ropd.batch_verifier.v2`. Extra keys in a reply are
tolerated; ids other than c1..cK, points outside 1..5, a judgement of the wrong length, and a
missing, double or unknown answer are not. Totals that a model writes are never read: a reward is
computed here, from booleans. Finding the JSON inside a reply is `asking/extraction.py`'s part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field, StrictBool, StrictInt, StringConstraints

from algo.asking.extraction import (
    InvalidReply,
    Value,
    array,
    check_schema,
    reply_schema,
    strict_object,
    validated,
)

RUBRIC_SCHEMA: Final = "ropd.rubric.v1"
VERIFIER_SCHEMA: Final = "ropd.batch_verifier.v2"
LONGEST_CRITERION: Final = 2_000
"""Characters. It is shown to the Verifier as often as a group is verified; a demand that is longer
is no single demand. Of a reply only: journals hold what was accepted when they were written."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Points = Annotated[StrictInt, Field(ge=1, le=5)]
Verdict = tuple[bool, ...]
"""One boolean a criterion, in the rubric's order (v_ik of Eq. 3)."""


class Criterion(Value):
    """c_k of Eq. 2: a yes/no demand on a single answer and its weight w_k (`points`)."""

    criterion_id: str
    category: Text
    criterion: Text
    points: Points


class Rubric(Value):
    """C_x of Eq. 2: the criteria that all rollouts of a prompt are judged by."""

    criteria: tuple[Criterion, ...]

    @property
    def total(self) -> int:
        return sum(criterion.points for criterion in self.criteria)


def weighted_pass_rate(rubric: Rubric, verdict: Verdict) -> float:
    """sum_k w_k v_k / sum_k w_k, in [0, 1] (Eq. 4; App. D, which has no epsilon)."""
    passed = sum(
        criterion.points
        for criterion, satisfied in zip(rubric.criteria, verdict, strict=True)
        if satisfied
    )
    return passed / rubric.total


def parse_rubric(payload: Mapping[str, Any], criteria: tuple[int, int]) -> Rubric:
    """The Rubric in a decoded `ropd.rubric.v1` object; raises `InvalidReply`."""
    reply = validated(_RubricReply, payload)
    check_schema(reply.schema_version, RUBRIC_SCHEMA)
    count = len(reply.rubrics)
    if not criteria[0] <= count <= criteria[1]:
        raise InvalidReply(f'"rubrics" holds {count} criteria; give {criteria[0]} to {criteria[1]}')
    for criterion in reply.rubrics:
        if max(len(criterion.criterion), len(criterion.category)) > LONGEST_CRITERION:
            raise InvalidReply(f"a criterion has more than {LONGEST_CRITERION} characters")
    ids = [criterion.criterion_id for criterion in reply.rubrics]
    wanted = [f"c{k}" for k in range(1, count + 1)]
    if ids != wanted:
        raise InvalidReply(f'"criterion_id" values are {ids}; they must be {wanted}, in order')
    return Rubric(criteria=reply.rubrics)


def parse_verdicts(
    payload: Mapping[str, Any], answer_count: int, rubric: Rubric
) -> tuple[Verdict, ...]:
    """The verdicts in a decoded `ropd.batch_verifier.v2` object, by answer index.

    Returns `answer_count` verdicts of length K; raises `InvalidReply`.
    """
    reply = validated(_VerifierReply, payload)
    check_schema(reply.schema_version, VERIFIER_SCHEMA)
    indices = sorted(answer.answer_index for answer in reply.answers)
    if indices != list(range(1, answer_count + 1)):
        raise InvalidReply(
            f'"answer_index" values are {indices}; give each of 1 to {answer_count} exactly once'
        )
    count = len(rubric.criteria)
    for answer in reply.answers:
        if len(answer.judgement) != count:
            raise InvalidReply(
                f'"judgement" of answer {answer.answer_index} holds {len(answer.judgement)} '
                f"values; give exactly {count}, one a criterion in the rubric's order"
            )
    by_index = {answer.answer_index: answer.judgement for answer in reply.answers}
    return tuple(by_index[index] for index in range(1, answer_count + 1))


def rubric_properties(criteria: tuple[int, int]) -> dict[str, Any]:
    """The keys of a Rubricator reply and their JSON schemas, in OpenAI's strict subset."""
    criterion = strict_object(
        {
            "criterion_id": {"type": "string"},
            "category": {"type": "string"},
            "criterion": {"type": "string"},
            "points": {"type": "integer", "enum": [1, 2, 3, 4, 5]},
        }
    )
    return {"rubrics": array(criterion, *criteria), "maximum_score": {"type": "integer"}}


def rubric_json_schema(criteria: tuple[int, int]) -> dict[str, Any]:
    """The JSON schema of a Rubricator reply."""
    return reply_schema(RUBRIC_SCHEMA, rubric_properties(criteria))


def verifier_json_schema(answer_count: int, criterion_count: int) -> dict[str, Any]:
    """The JSON schema of a Verifier reply on `answer_count` answers and K criteria."""
    answer = strict_object(
        {
            "answer_index": {"type": "integer"},
            "judgement": array({"type": "boolean"}, criterion_count, criterion_count),
        }
    )
    return reply_schema(VERIFIER_SCHEMA, {"answers": array(answer, answer_count, answer_count)})


class _RubricReply(Value):
    schema_version: str
    rubrics: tuple[Criterion, ...]


class _AnswerReply(Value):
    answer_index: StrictInt
    judgement: tuple[StrictBool, ...]


class _VerifierReply(Value):
    schema_version: str
    answers: tuple[_AnswerReply, ...]
