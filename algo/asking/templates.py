"""Prompt templates, and data put into them so that it stays data.

All data (question, rubric, answers) stands in blocks

    <<<BEGIN LABEL nonce>>>
    text
    <<<END LABEL nonce>>>

whose nonce (16 hex digits, drawn anew for each prompt) occurs in none of the data, so nothing an
answer says can end its own block or begin another. Data enters the template once, in one pass, so
braces and placeholder names inside an answer stay what they are. Control tokens of chat templates
are broken up with a space, since a server would otherwise read them as structure: those of the
model's own tokenizer where one is named (`tokens.py`), else those of a list.

Knows neither endpoints nor replies, nor what a method shows.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from algo.errors import ConfigurationError
from algo.paths import absolute, shipped

_PLACEHOLDER: Final = re.compile(r"\{\{(\w+)\}\}")
_TAGS: Final = (
    *("s", "bos", "eos", "pad", "unk", "mask", "sop", "eop", "think", "thinking", "tool", "tools"),
    *("tool_call", "tool_calls", "tool_response", "tool_result", "arg_key", "arg_value"),
    *("start_of_turn", "end_of_turn", "start_of_image", "end_of_image", "image_soft_token"),
    *("start_function_call", "end_function_call", "start_function_response"),
    *("end_function_response", "image", "image_pad", "image_placeholder", "img", "video", "audio"),
    *("begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix"),
)
_NUMBERED_TAGS: Final = r"(?:unused|reserved(?:_(?:special_)?token)?|extra_id)_?\d{1,6}"
_BRACKETS: Final = (
    *("INST", "SYSTEM_PROMPT", "AVAILABLE_TOOLS", "TOOL_CALLS", "TOOL_RESULTS", "TOOL_CONTENT"),
    *("THINK", "ARGS", "CALL_ID", "MODEL_SETTINGS", "IMG", "IMG_BREAK", "IMG_END", "AUDIO"),
    *("BEGIN_AUDIO", "gMASK", "sMASK"),
)
# Two patterns, for the search of one that begins with a fixed sign is several times as fast.
_IN_ANGLES: Final = re.compile(
    r"<(?=\|[^|<>\n]{1,64}\|?>|[^\s|<>]{1,64}\|>|\uff5c[^\uff5c<>\n]{1,64}\uff5c>"
    rf"|/?(?:{'|'.join(_TAGS)}|{_NUMBERED_TAGS})>|</?SYS>>)"
)
"""The sign that opens a control token, by its look: of `<|im_start|>`, `<|turn>`, `</s>`."""
_IN_BRACKETS: Final = re.compile(rf"\[(?=/?(?:{'|'.join(_BRACKETS)})\])")
"""The same of `[INST]` and its like."""
_LONE_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


Inert = Callable[[str], str]
"""Gives a text back without control tokens, and itself where there are none."""


def inert(text: str) -> str:
    """`text` with control tokens of chat templates broken up and lone surrogates replaced."""
    text = encodable(text)
    if "<" in text and ">" in text:
        text = _IN_ANGLES.sub("< ", text)
    if "[" in text and "]" in text:
        text = _IN_BRACKETS.sub("[ ", text)
    return text


def encodable(text: str) -> str:
    """`text` with lone surrogates, which no encoding has, replaced."""
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


def is_control_token(text: str) -> bool:
    """Whether `text` is one control token by its look."""
    opens = _IN_ANGLES.match(text) or _IN_BRACKETS.match(text)
    return opens is not None and text[-1] in ">]"


@dataclass(frozen=True)
class Block:
    """One piece of data of a prompt; `label` is upper-case words, such as `STUDENT ANSWER 3`."""

    label: str
    text: str
    note: str = ""
    """The method's own words about it, which stand above the block."""


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

    def show(
        self,
        data: Mapping[str, Sequence[Block]],
        values: Mapping[str, str],
        nonce: str,
        inert: Inert = inert,
    ) -> str:
        """The prompt with each placeholder's blocks fenced under `nonce` (`draw_nonce`).

        `values` are put in as they are: the method's own words, never a question or an answer.
        """
        shown = {name: fenced(blocks, nonce, inert) for name, blocks in data.items()}
        return self.fill({**values, **shown, "nonce": nonce})


def draw_nonce(texts: Iterable[str], key: str | None = None) -> str:
    """16 random hex digits that occur in none of `texts`.

    With `key` the same again for the same key: a random one, drawn after the texts were written,
    that is kept to make the very prompt anew.
    """
    texts = tuple(texts)
    for attempt in count():
        nonce = secrets.token_hex(8) if key is None else _keyed(f"{attempt}\n{key}")
        if not any(nonce in text for text in texts):
            return nonce
    raise AssertionError("count() has no end")


def _keyed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def fence(block: Block, nonce: str, inert: Inert = inert) -> str:
    """The block, made inert, between its two lines."""
    label, note = block.label, block.note and f"{block.note}\n"
    return f"{note}<<<BEGIN {label} {nonce}>>>\n{inert(block.text)}\n<<<END {label} {nonce}>>>"


def numbered(label: str, texts: Sequence[str]) -> list[Block]:
    """`texts` as blocks `LABEL 1`, `LABEL 2`, ..."""
    return [Block(f"{label} {index}", text) for index, text in enumerate(texts, start=1)]


def fenced(blocks: Sequence[Block], nonce: str, inert: Inert = inert) -> str:
    """All blocks, fenced, with an empty line between them."""
    return "\n\n".join(fence(block, nonce, inert) for block in blocks)


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
