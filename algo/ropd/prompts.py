"""Renders the Rubricator's and the Verifier's prompt from a template and fenced data.

All data (question, rubric, answers) stands in blocks

    <<<BEGIN LABEL nonce>>>
    text
    <<<END LABEL nonce>>>

whose nonce (16 hex digits, drawn anew for each prompt) occurs in none of the data, so nothing an
answer says can end its own block or begin another. Data enters the template once, in one pass, so
braces and placeholder names inside an answer stay what they are. Control tokens of chat templates
are broken up with a space, since a server would otherwise read them as structure.

This module knows neither endpoints nor replies; `answers.py` decides which answers are shown.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from algo.ropd.errors import ConfigurationError
from algo.ropd.rubric import Rubric

SHIPPED: Final = Path(__file__).resolve().parents[2] / "prompts"

_PLACEHOLDER: Final = re.compile(r"\{\{(\w+)\}\}")
_TAGS: Final = ("s", "bos", "eos", "pad", "unk", "think", "start_of_turn", "end_of_turn")
_BRACKETS: Final = ("INST", "SYSTEM_PROMPT", "AVAILABLE_TOOLS", "TOOL_CALLS", "TOOL_RESULTS")
_CONTROL_TOKEN: Final = re.compile(
    r"<(?=\|[^|<>\n]{1,64}\|>|\uff5c[^\uff5c<>\n]{1,64}\uff5c>"
    rf"|/?(?:{'|'.join(_TAGS)})>)"
    rf"|\[(?=/?(?:{'|'.join(_BRACKETS)})\])"
)
_TAG_ENDS: Final = ("|>", "\uff5c>", *(f"{tag}>" for tag in _TAGS))
_BRACKET_ENDS: Final = tuple(f"{bracket}]" for bracket in _BRACKETS)
_LONE_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class Block:
    """One piece of data of a prompt; `label` is upper-case words, such as `STUDENT ANSWER 3`."""

    label: str
    text: str


@dataclass(frozen=True)
class PromptTemplate:
    """A template file: its text, its sha256 and the placeholders it fills."""

    name: str
    text: str
    sha256: str

    @classmethod
    def load(cls, path: Path, placeholders: Iterable[str]) -> PromptTemplate:
        """Read `path`; raises `ConfigurationError` when a placeholder is missing or unknown."""
        wanted = frozenset(placeholders)
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"ropd.prompts: cannot read the template {path}: {error.strerror}"
            ) from None
        text = raw.decode("utf-8")
        found = frozenset(_PLACEHOLDER.findall(text))
        if found != wanted:
            missing = ", ".join(sorted(wanted - found)) or "none"
            unknown = ", ".join(sorted(found - wanted)) or "none"
            raise ConfigurationError(
                f"ropd.prompts: template {path} must hold each of its placeholders "
                f"(missing: {missing}; unknown: {unknown})"
            )
        return cls(path.name, text, hashlib.sha256(raw).hexdigest())

    def fill(self, values: Mapping[str, str]) -> str:
        """Put each value in place of its `{{name}}`, in a single pass."""
        return _PLACEHOLDER.sub(lambda match: values[match.group(1)], self.text)


def load_rubricator_template(path: Path | None) -> PromptTemplate:
    return PromptTemplate.load(
        path or SHIPPED / "rubricator.txt",
        ("nonce", "min_criteria", "max_criteria", "question", "teacher_answers", "student_answers"),
    )


def load_verifier_template(path: Path | None) -> PromptTemplate:
    return PromptTemplate.load(
        path or SHIPPED / "verifier.txt", ("nonce", "question", "rubric", "answers")
    )


def inert(text: str) -> str:
    """`text` with control tokens of chat templates broken up and lone surrogates replaced."""
    if not text.isascii():
        text = _LONE_SURROGATE.sub("\ufffd", text)
    if _may_hold_control_token(text):
        text = _CONTROL_TOKEN.sub(lambda match: match.group() + " ", text)
    return text


def _may_hold_control_token(text: str) -> bool:
    """Much cheaper than the pattern, which most texts are thus spared."""
    return ("<" in text and any(end in text for end in _TAG_ENDS)) or (
        "[" in text and any(end in text for end in _BRACKET_ENDS)
    )


def draw_nonce(texts: Iterable[str]) -> str:
    """16 random hex digits that occur in none of `texts`."""
    texts = tuple(texts)
    while True:
        nonce = secrets.token_hex(8)
        if not any(nonce in text for text in texts):
            return nonce


def fence(block: Block, nonce: str) -> str:
    return f"<<<BEGIN {block.label} {nonce}>>>\n{block.text}\n<<<END {block.label} {nonce}>>>"


def question_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The prompt as text: a lone message's content, or each message under its role."""
    if len(messages) == 1:
        return _content(messages[0])
    return "\n\n".join(f"[{message['role']}]\n{_content(message)}" for message in messages)


def rubricator_prompt(
    template: PromptTemplate,
    question: str,
    teachers: Sequence[str],
    students: Sequence[str],
    criteria: tuple[int, int],
) -> str:
    """The Rubricator's user message; `criteria` is the allowed range of K (paper App. D)."""
    question = inert(question)
    teacher_blocks = _numbered("TEACHER ANSWER", teachers)
    student_blocks = _numbered("STUDENT ANSWER", students)
    nonce = draw_nonce((question, *(block.text for block in teacher_blocks + student_blocks)))
    return template.fill(
        {
            "nonce": nonce,
            "min_criteria": str(criteria[0]),
            "max_criteria": str(criteria[1]),
            "question": fence(Block("QUESTION", question), nonce),
            "teacher_answers": _fenced(teacher_blocks, nonce),
            "student_answers": _fenced(student_blocks, nonce),
        }
    )


@dataclass(frozen=True)
class VerifierPrompts:
    """Renders the verifier calls of one rubric, all under one nonce.

    Template, question and rubric come before the answers and are the same bytes in every call, so
    that a server's prefix cache serves them when a pool is split over several calls.
    """

    template: PromptTemplate
    question: str
    rubric: str
    nonce: str

    @classmethod
    def begin(
        cls, template: PromptTemplate, question: str, rubric: Rubric, answers: Iterable[str]
    ) -> VerifierPrompts:
        """`answers` are all that any call of this rubric will show: the nonce is in none."""
        question, shown = inert(question), inert(shown_rubric(rubric))
        nonce = draw_nonce((question, shown, *answers))
        return cls(template, question, shown, nonce)

    def render(self, answers: Sequence[str], sources: Sequence[str] | None = None) -> str:
        """The user message that shows `answers` as ANSWER 1..N.

        `sources` (`TEACHER` or `STUDENT`, one an answer) is given in joint_named mode alone and
        stands in the label: `ANSWER 3 BY TEACHER`.
        """
        blocks = _numbered("ANSWER", answers)
        if sources is not None:
            blocks = [
                Block(f"{block.label} BY {source}", block.text)
                for block, source in zip(blocks, sources, strict=True)
            ]
        return self.template.fill(
            {
                "nonce": self.nonce,
                "question": fence(Block("QUESTION", self.question), self.nonce),
                "rubric": fence(Block("RUBRIC", self.rubric), self.nonce),
                "answers": _fenced(blocks, self.nonce),
            }
        )


def shown_rubric(rubric: Rubric) -> str:
    """The rubric as the Verifier sees it: a JSON list without points."""
    return orjson.dumps(
        [
            {
                "criterion_id": criterion.criterion_id,
                "category": criterion.category,
                "criterion": criterion.criterion,
            }
            for criterion in rubric.criteria
        ],
        option=orjson.OPT_INDENT_2,
    ).decode()


def _numbered(label: str, texts: Sequence[str]) -> list[Block]:
    return [Block(f"{label} {index}", inert(text)) for index, text in enumerate(texts, start=1)]


def _fenced(blocks: Sequence[Block], nonce: str) -> str:
    return "\n\n".join(fence(block, nonce) for block in blocks)


def _content(message: Mapping[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")
