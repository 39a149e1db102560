"""What a model's own tokenizer makes of a text: how many tokens, and which of them steer the model.

A server encodes what it is sent with the special tokens of its tokenizer in force, so a text that
spells one would be read as structure. `JudgeTokenizer.inert` breaks up exactly these, and the ones
of chat templates that the tokenizer holds without calling them special, such as Qwen3's `</think>`.
What the tokenizer takes for plain text stays as it is. Without a tokenizer `templates.inert` goes
by a list.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from algo.asking.templates import encodable, is_control_token
from algo.errors import ConfigurationError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_ROUNDS_OF_SPACES: Final = 4
"""After these a token has survived a space in it, as one of a single sign does: it is left out."""
_UNKNOWN_TO_ALL: Final = "\U0010fffd"


class JudgeTokenizer:
    """The tokenizer of one role's model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # A file may hold the settings of the training it comes from.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        added = tokenizer.get_added_tokens_decoder()
        self._tokenizer = tokenizer
        self._control = {
            number: token.content
            for number, token in added.items()
            if token.special or is_control_token(token.content)
        }
        controlling = [token for number, token in added.items() if number in self._control]
        self._unknown = frozenset(self._encode(_UNKNOWN_TO_ALL).ids)
        self._plain = tuple(self._control.values())
        self._by_its_normal_form = tokenizer.normalizer is not None and any(
            token.normalized for token in controlling
        )

    @classmethod
    def read(cls, role: str, named: str) -> JudgeTokenizer:
        """The tokenizer that `ropd.judge.<role>.tokenizer` names: a tokenizer.json or its folder.

        Raises `ConfigurationError`.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise ConfigurationError(
                f"ropd.judge.{role}.tokenizer needs the package `tokenizers`: install it, or set "
                "null to estimate"
            ) from None
        return cls(Tokenizer.from_file(str(tokenizer_file(role, named))))

    def count(self, text: str) -> int:
        return len(self._encode(encodable(text)).ids)

    def inert(self, text: str) -> str:
        """`text` with each control token of this tokenizer broken up by a space."""
        text = encodable(text)
        for round_number in count():
            if not self._may_hold_one(text):
                return text
            spans = list(self._control_spans(text))
            if not spans:
                return text
            text = _broken(text, spans, with_spaces=round_number < _ROUNDS_OF_SPACES)
        raise AssertionError("count() has no end")

    def _encode(self, text: str) -> Encoding:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _may_hold_one(self, text: str) -> bool:
        """Much cheaper than encoding, which most texts are thus spared."""
        return self._by_its_normal_form or any(token in text for token in self._plain)

    def _control_spans(self, text: str) -> Iterable[tuple[int, int]]:
        """From where to where each one goes, the white space that it may take in left out."""
        encoding = self._encode(text)
        for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if number not in self._control:
                continue
            spelled = text[start:end]
            # A word that the model does not know has the same number as the token for it.
            if number in self._unknown and self._control[number] not in spelled:
                continue
            start += len(spelled) - len(spelled.lstrip())
            if spelled.strip():
                yield start, start + len(spelled.strip())


def tokenizer_file(role: str, named: str) -> Path:
    """The file that `ropd.judge.<role>.tokenizer` names; raises `ConfigurationError`."""
    path = Path(named)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ConfigurationError(
            f"ropd.judge.{role}.tokenizer={named}: no tokenizer.json there; name one, or set null "
            "to estimate"
        )
    return file


def _broken(text: str, spans: Iterable[tuple[int, int]], *, with_spaces: bool) -> str:
    pieces: list[str] = []
    done = 0
    for start, end in spans:
        pieces.append(text[done:start])
        if with_spaces and end - start > 1:
            pieces.append(f"{text[start]} {text[start + 1 : end]}")
        done = end
    return "".join([*pieces, text[done:]])
