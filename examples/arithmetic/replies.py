"""What each of the three served models replies: texts in, text out.

The wire formats are `ropd.rubric.v1` and `ropd.batch_verifier.v2`. Where a language model would
fail at a prompt, these reply in prose, which the caller cannot take for a judgement.
This module does not decide criteria (`contrast`) or word solutions (`solutions`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from algo.testing import message_text
from examples.arithmetic.contrast import induce_rubric, verify
from examples.arithmetic.problems import parse_question
from examples.arithmetic.rendered_prompt import (
    RUBRIC_SCHEMA,
    VERDICT_SCHEMA,
    RenderedPrompt,
    rubric_sentences,
)
from examples.arithmetic.solutions import STYLES, solve


def rubricate(prompt: RenderedPrompt) -> str:
    """The Rubricator's reply."""
    rubric = induce_rubric(prompt.teachers, prompt.students)
    if not rubric:
        return "I cannot write a rubric: the reference answers share too few column equations."
    entries = [
        {
            "criterion_id": f"c{number}",
            "category": weighted.criterion.category,
            "criterion": str(weighted.criterion),
            "points": weighted.points,
        }
        for number, weighted in enumerate(rubric, start=1)
    ]
    total = sum(weighted.points for weighted in rubric)
    return json.dumps({"schema_version": RUBRIC_SCHEMA, "rubrics": entries, "maximum_score": total})


def give_verdicts(prompt: RenderedPrompt) -> str:
    """The Verifier's reply; it is shown no points, so its totals count satisfied criteria."""
    sentences = rubric_sentences(prompt.rubric)
    if sentences is None:
        return "I cannot judge: the rubric is not a JSON list of criteria."
    judged = [verify(sentences, answer) for answer in prompt.answers]
    entries = [
        {
            "answer_index": number,
            "judgement": verdicts,
            "final_score": sum(verdicts),
        }
        for number, verdicts in enumerate(judged, start=1)
    ]
    return json.dumps({"schema_version": VERDICT_SCHEMA, "answers": entries})


def teach(messages: Sequence[Mapping[str, Any]], variant: int) -> str:
    """A correct solution; `variant` chooses the layout, from a start that differs by question."""
    problem = parse_question(message_text(messages[-1:]))
    if problem is None:
        return "I can only add two whole numbers, asked as a+b=?"
    styles = list(STYLES.values())
    start = zlib.crc32(problem.question.encode())
    return solve(problem, styles[(start + variant) % len(styles)])
