"""Reads a rendered prompt of a Rubricator, a Verifier or a grader back into its parts.

The judge program sees what a language model would see: the messages of a chat request. Data stands
in blocks `<<<BEGIN LABEL nonce>>>` ... `<<<END LABEL nonce>>>`; which of the three is asked for
follows from the schema that the text outside the blocks names. Blocks under another nonce than the
first are part of some answer, and are not seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

RUBRIC_SCHEMA = "ropd.rubric.v1"
VERDICT_SCHEMA = "ropd.batch_verifier.v2"
GRADE_SCHEMA = "ropd.grade.v1"

_FIRST_BLOCK = re.compile(r"^<<<BEGIN [A-Z0-9 ]{1,60} ([0-9a-f]{16})>>>$", re.MULTILINE)
_SCHEMA = re.compile("|".join(map(re.escape, (RUBRIC_SCHEMA, VERDICT_SCHEMA, GRADE_SCHEMA))))
_SCALE = re.compile(r"from 0 to ([0-9]{1,3})\b")


class RenderedPrompt(NamedTuple):
    """A prompt's parts; `schema` is the first wire format named outside the data, if any, and `top`
    the highest grade that is asked for there."""

    schema: str | None
    question: str
    rubric: str
    teachers: tuple[str, ...]
    students: tuple[str, ...]
    answers: tuple[str, ...]
    top: int | None = None


def read_prompt(text: str) -> RenderedPrompt:
    first = _FIRST_BLOCK.search(text)
    if first is None:
        return RenderedPrompt(_schema_in(text), "", "", (), (), ())
    blocks, outside = _blocks(text, nonce=first[1])
    scale = _SCALE.search(outside)
    return RenderedPrompt(
        schema=_schema_in(outside),
        question=_only(blocks, "QUESTION"),
        rubric=_only(blocks, "RUBRIC"),
        teachers=_starting(blocks, "TEACHER ANSWER "),
        students=_starting(blocks, "STUDENT ANSWER "),
        answers=_starting(blocks, "ANSWER ") or _starting(blocks, "ANSWER"),
        top=int(scale[1]) if scale else None,
    )


def rubric_sentences(rubric: str) -> list[str] | None:
    """The criteria of a RUBRIC block in order; None when it is not the promised JSON list."""
    try:
        entries = json.loads(rubric)
        return [str(entry["criterion"]) for entry in entries]
    except (ValueError, TypeError, KeyError):
        return None


def _blocks(text: str, nonce: str) -> tuple[list[tuple[str, str]], str]:
    """The (label, text) of each block under `nonce`, and what stands outside of them all.

    The nonce occurs in no data, so each of its BEGIN lines is followed by the END of its block.
    """
    form = re.compile(rf"^<<<(BEGIN|END) ([A-Z0-9 ]{{1,60}}) {nonce}>>>$", re.MULTILINE)
    blocks: list[tuple[str, str]] = []
    outside: list[str] = []
    end = 0
    for opening, closing in pairwise(form.finditer(text)):
        if (opening[1], closing[1]) == ("BEGIN", "END") and opening[2] == closing[2]:
            blocks.append((opening[2], text[opening.end() + 1 : closing.start() - 1]))
            outside.append(text[end : opening.start()])
            end = closing.end()
    return blocks, "".join([*outside, text[end:]])


def _schema_in(text: str) -> str | None:
    named = _SCHEMA.search(text)
    return named[0] if named else None


def _only(blocks: Sequence[tuple[str, str]], label: str) -> str:
    return next((text for found, text in blocks if found == label), "")


def _starting(blocks: Sequence[tuple[str, str]], prefix: str) -> tuple[str, ...]:
    return tuple(text for label, text in blocks if label.startswith(prefix))
