"""Prompt templates, and data put into them so that it stays data.

All data (question, rubric, answers) stands in blocks

    <<<BEGIN LABEL nonce>>>
    text
    <<<END LABEL nonce>>>

whose nonce (16 hex digits, drawn anew for each prompt) occurs in none of the data, so nothing an
answer says can end its own block or begin another. Data enters the template once, in one pass, so
braces and placeholder names inside an answer stay what they are. Control tokens of chat templates
are broken up with a space, since a server would otherwise read them as structure.

Knows neither endpoints nor replies, nor what a method shows.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from algo.errors import ConfigurationError
from algo.paths import absolute, shipped

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
    def load(
        cls,
        name: str,
        placeholders: Iterable[str],
        path: Path | None = None,
        *,
        setting: str | None = None,
    ) -> PromptTemplate:
        """The template at `path`, or the shipped `prompts/<name>.txt`.

        `setting` is what names `path` in the configuration. Raises `ConfigurationError` when the
        file cannot be read, or when a placeholder is missing or unknown.
        """
        setting = setting or f"prompts/{name}.txt"
        wanted = frozenset(placeholders)
        file = shipped("prompts") / f"{name}.txt" if path is None else absolute(path)
        try:
            raw = file.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"{setting}: cannot read the template {file}: {error.strerror}"
            ) from None
        text = raw.decode("utf-8")
        found = frozenset(_PLACEHOLDER.findall(text))
        if found != wanted:
            missing = ", ".join(sorted(wanted - found)) or "none"
            unknown = ", ".join(sorted(found - wanted)) or "none"
            raise ConfigurationError(
                f"{setting}: template {file} must hold each of its placeholders "
                f"(missing: {missing}; unknown: {unknown})"
            )
        return cls(file.name, text, hashlib.sha256(raw).hexdigest())

    def fill(self, values: Mapping[str, str]) -> str:
        """Put each value in place of its `{{name}}`, in a single pass."""
        return _PLACEHOLDER.sub(lambda match: values[match.group(1)], self.text)

    def show(self, data: Mapping[str, Sequence[Block]], values: Mapping[str, str]) -> str:
        """The prompt with each placeholder's blocks fenced under one new `nonce`.

        `values` are put in as they are: the method's own words, never a question or an answer.
        """
        nonce = draw_nonce(block.text for blocks in data.values() for block in blocks)
        shown = {name: fenced(blocks, nonce) for name, blocks in data.items()}
        return self.fill({**values, **shown, "nonce": nonce})


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
    """The block, made inert, between its two lines.

    A nonce that does not occur in the text does not occur in the inert text either: nothing is
    added to it but spaces and replacement characters.
    """
    label = block.label
    return f"<<<BEGIN {label} {nonce}>>>\n{inert(block.text)}\n<<<END {label} {nonce}>>>"


def numbered(label: str, texts: Sequence[str]) -> list[Block]:
    """`texts` as blocks `LABEL 1`, `LABEL 2`, ..."""
    return [Block(f"{label} {index}", text) for index, text in enumerate(texts, start=1)]


def fenced(blocks: Sequence[Block], nonce: str) -> str:
    """All blocks, fenced, with an empty line between them."""
    return "\n\n".join(fence(block, nonce) for block in blocks)


def question_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The prompt as text: a lone message's content, or each message under its role."""
    if len(messages) == 1:
        return _content(messages[0])
    return "\n\n".join(f"[{message['role']}]\n{_content(message)}" for message in messages)


def _content(message: Mapping[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")
