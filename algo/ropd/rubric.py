"""Rubric, verdict and the weighted pass rate: values and pure functions.

The wire formats are `ropd.rubric.v1` and `ropd.batch_verifier.v2`. Extra keys in a reply are
tolerated; ids other than c1..cK, unknown categories, points outside 1..5, criteria that repeat one
another or speak of a numbered answer, a judgement of the wrong length, and a missing, double or
unknown answer are not. Totals that a model writes are never read: a reward is computed here, from
booleans. Finding the JSON inside a reply is `asking/extraction.py`'s part.

What a schema can rule out, it does, within what OpenAI's strict mode, xgrammar, llguidance and
outlines all take. OpenAI's has no `prefixItems`, so a number that belongs to a place is the name
of a property (`answers` by number) or is left to the place (a criterion's id).
Replies that are under no schema may give v2's list of answers, and criteria with their ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import compress
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictInt,
    StringConstraints,
)

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
CATEGORIES: Final = ("Task Completion", "Observable Quality", "General Reasoning")
"""The paper's (App. D); what else a reply names is asked for again."""
LONGEST_CRITERION: Final = 2_000
"""Characters. It is shown to the Verifier as often as a group is verified; a demand that is longer
is no single demand. Of a reply only: journals hold what was accepted when they were written."""

_LONGEST_QUOTED: Final = 80
_AUTHORS: Final = r"(?:teacher|student|reference)(?:['\u2019]?s)?"
_TEXTS: Final = r"(?:answer|response|attempt|solution)s?"
_NUMBER: Final = r"[\W_]{0,2}(?:number |no\. ?)?\d"
_ORDINAL: Final = r"(?:first|second|third|fourth|fifth|\d+(?:st|nd|rd|th))"
_COMPARED: Final = (
    r"(?:like|unlike|than|in|from|same(?: \w+)? as|(?:agree|consistent|compar|simil|differ)\S* \w+)"
)
_NUMBERED_ANSWER: Final = re.compile(
    rf"\b{_AUTHORS}[ _-]{_TEXTS}{_NUMBER}|\b{_ORDINAL} {_AUTHORS} {_TEXTS}\b"
    rf"|\b{_AUTHORS} {_ORDINAL} {_TEXTS}\b|\b{_COMPARED} answers? #?\d|(?-i:\bANSWERS? #?\d)",
    re.IGNORECASE,
)
"""How a criterion names an answer by the number that it had in the Rubricator's prompt: the
Verifier shows each under another one. "States the answer 28" is none of these."""

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

    def unweighted(self) -> Rubric:
        """The same criteria at one point each."""
        equal = (criterion.model_copy(update={"points": 1}) for criterion in self.criteria)
        return Rubric(criteria=tuple(equal))


def weighted_pass_rate(rubric: Rubric, verdict: Verdict) -> float:
    """sum_k w_k v_k / sum_k w_k, in [0, 1] (Eq. 4; App. D, which has no epsilon)."""
    passed = sum(
        criterion.points
        for criterion, satisfied in zip(rubric.criteria, verdict, strict=True)
        if satisfied
    )
    return passed / rubric.total


def spelled_sum(rubric: Rubric, verdict: Verdict) -> str:
    """The weighted pass rate as a sum, e.g. `5+3 of 11 = 0.727` (Eq. 4)."""
    points = "+".join(str(criterion.points) for criterion in compress(rubric.criteria, verdict))
    score = weighted_pass_rate(rubric, verdict)
    return f"{points or '0'} of {rubric.total} = {score:.3f}"


def parse_rubric(payload: Mapping[str, Any], criteria: tuple[int, int]) -> Rubric:
    """The Rubric in a decoded `ropd.rubric.v1` object; raises `InvalidReply`.

    A criterion without an id has that of its place.
    """
    reply = validated(_RubricReply, payload)
    check_schema(reply.schema_version, RUBRIC_SCHEMA)
    count = len(reply.rubrics)
    if not criteria[0] <= count <= criteria[1]:
        raise InvalidReply(f'"rubrics" holds {count} criteria; give {criteria[0]} to {criteria[1]}')
    for criterion in reply.rubrics:
        if max(len(criterion.criterion), len(criterion.category)) > LONGEST_CRITERION:
            raise InvalidReply(f"a criterion has more than {LONGEST_CRITERION} characters")
    wanted = [f"c{k}" for k in range(1, count + 1)]
    ids = [
        place if given.criterion_id is None else given.criterion_id
        for given, place in zip(reply.rubrics, wanted, strict=True)
    ]
    if ids != wanted:
        found = [each[:_LONGEST_QUOTED] for each in ids]
        raise InvalidReply(f'"criterion_id" values are {found}; they must be {wanted}, in order')
    _check_texts([given.criterion for given in reply.rubrics])
    return Rubric(
        criteria=tuple(
            Criterion(
                criterion_id=place,
                category=given.category,
                criterion=given.criterion,
                points=given.points,
            )
            for given, place in zip(reply.rubrics, wanted, strict=True)
        )
    )


def _check_texts(criteria: list[str]) -> None:
    first: dict[str, int] = {}
    for k, text in enumerate(criteria, start=1):
        if (named := _NUMBERED_ANSWER.search(text)) is not None:
            raise InvalidReply(
                f'"criterion" of c{k} speaks of "{named.group()[:_LONGEST_QUOTED]}", but its '
                "grader sees one answer under another number: say what must stand in any answer"
            )
        earlier = first.setdefault(" ".join(text.casefold().split()), k)
        if earlier != k:
            raise InvalidReply(
                f'"criterion" of c{k} is that of c{earlier} again: replace it by another demand, '
                "or leave it out"
            )


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
        found = str(indices)[: 2 * _LONGEST_QUOTED]
        raise InvalidReply(
            f'"answer_index" values are {found}; give each of 1 to {answer_count} exactly once'
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
            "category": {"type": "string", "enum": list(CATEGORIES)},
            "criterion": {"type": "string"},
            "points": {"type": "integer", "enum": [1, 2, 3, 4, 5]},
        }
    )
    return {"rubrics": array(criterion, *criteria), "maximum_score": {"type": "integer"}}


def rubric_json_schema(criteria: tuple[int, int]) -> dict[str, Any]:
    """The JSON schema of a Rubricator reply."""
    return reply_schema(RUBRIC_SCHEMA, rubric_properties(criteria))


@lru_cache(maxsize=256)
def verifier_json_schema(answer_count: int, criterion_count: int) -> Mapping[str, Any]:
    """The JSON schema of a Verifier reply on `answer_count` answers and K criteria: the same object
    for the same numbers, since a run has few of them and one is made of some hundred parts."""
    judgement = array({"type": "boolean"}, criterion_count, criterion_count)
    answers = {
        str(index): strict_object(
            {"answer_index": {"type": "integer", "enum": [index]}, "judgement": judgement}
        )
        for index in range(1, answer_count + 1)
    }
    return reply_schema(VERIFIER_SCHEMA, {"answers": strict_object(answers)})


def _known_category(text: str) -> str:
    for category in CATEGORIES:
        if " ".join(text.casefold().split()) == category.casefold():
            return category
    names = ", ".join(f'"{category}"' for category in CATEGORIES)
    raise ValueError(f'"{text[:_LONGEST_QUOTED]}" is no category; use one of {names}')


def _by_number(answers: Any) -> Any:
    """The entries of an object of answers by number; each must carry the number of its key."""
    if not isinstance(answers, Mapping):
        return answers
    entries: list[Any] = []
    for number, entry in answers.items():
        shown = number[:_LONGEST_QUOTED]
        if not isinstance(entry, Mapping) or not number.isascii() or not number.isdigit():
            raise ValueError(f'"{shown}" must be the number of an answer, with its "judgement"')
        if str(entry.get("answer_index", number)) != number:
            raise ValueError(f'"answer_index" under "{shown}" is another number')
        entries.append({"answer_index": int(number), **entry})
    return entries


class _CriterionReply(Value):
    criterion_id: str | None = None
    category: Annotated[Text, AfterValidator(_known_category)]
    criterion: Text
    points: Points


class _RubricReply(Value):
    schema_version: str
    rubrics: tuple[_CriterionReply, ...]


class _AnswerReply(Value):
    answer_index: StrictInt
    judgement: tuple[StrictBool, ...]


class _VerifierReply(Value):
    schema_version: str
    answers: Annotated[tuple[_AnswerReply, ...], BeforeValidator(_by_number)]
