"""Reads a rendered Rubricator or Verifier prompt back into its parts.

The judge program sees what a language model would see: the messages of a chat request. Data stands
in blocks `<<<BEGIN LABEL nonce>>>` ... `<<<END LABEL nonce>>>`; which of the two roles is asked for
follows from the schema that the text outside the blocks names. Blocks under another nonce than the
first are part of some answer, and are not seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

RUBRIC_SCHEMA = "ropd.rubric.v1"
VERDICT_SCHEMA = "ropd.batch_verifier.v2"

_BLOCK = re.compile(
    r"^<<<BEGIN (?P<label>[A-Z0-9 ]{1,60}) (?P<nonce>[0-9a-f]{16})>>>\n"
    r"(?P<text>.*?)\n"
    r"<<<END (?P=label) (?P=nonce)>>>$",
    re.MULTILINE | re.DOTALL,
)
_SCHEMA = re.compile("|".join(re.escape(name) for name in (RUBRIC_SCHEMA, VERDICT_SCHEMA)))


class RenderedPrompt(NamedTuple):
    """A prompt's parts; `schema` is the first wire format named outside the data, if any."""

    schema: str | None
    question: str
    rubric: str
    teachers: tuple[str, ...]
    students: tuple[str, ...]
    answers: tuple[str, ...]


def message_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of all messages, in order; content parts other than text are skipped."""
    return "\n\n".join(_content(message.get("content")) for message in messages)


def read_prompt(text: str) -> RenderedPrompt:
    first = _BLOCK.search(text)
    nonce = first["nonce"] if first else ""
    blocks = [(b["label"], b["text"]) for b in _BLOCK.finditer(text) if b["nonce"] == nonce]
    named = _SCHEMA.search(_BLOCK.sub("", text))
    return RenderedPrompt(
        schema=named[0] if named else None,
        question=_only(blocks, "QUESTION"),
        rubric=_only(blocks, "RUBRIC"),
        teachers=_starting(blocks, "TEACHER ANSWER "),
        students=_starting(blocks, "STUDENT ANSWER "),
        answers=_starting(blocks, "ANSWER "),
    )


def rubric_sentences(rubric: str) -> list[str] | None:
    """The criteria of a RUBRIC block in order; None when it is not the promised JSON list."""
    try:
        entries = json.loads(rubric)
        return [str(entry["criterion"]) for entry in entries]
    except (ValueError, TypeError, KeyError):
        return None


def _content(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    return "\n".join(str(part.get("text", "")) for part in parts)


def _only(blocks: Sequence[tuple[str, str]], label: str) -> str:
    return next((text for found, text in blocks if found == label), "")


def _starting(blocks: Sequence[tuple[str, str]], prefix: str) -> tuple[str, ...]:
    return tuple(text for label, text in blocks if label.startswith(prefix))
