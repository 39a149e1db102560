"""Fits a prompt into a model's context before it is sent: what is cut, what is split, what fails.

Tokens are counted with the model's tokenizer when one is configured, else estimated high: three
letters a token, and one token for every digit, sign and byte outside ASCII. Without a configured
`context_tokens` nothing is counted or cut. An answer is cut in the middle, since its beginning
states the approach and its end the result, and a mark tells how much is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_letters
from typing import Final, Literal

from algo.errors import ConfigurationError, FailureKind, JudgeFailure
from algo.llm.settings import RoleSettings

Overflow = Literal["cut", "split", "fail"]

_LETTERS: Final = ascii_letters.encode()
_SPACES: Final = b" \t"
_FENCE_TOKENS: Final = 64
"""For the two lines around a block: label and nonce, twice."""
_FRAME_TOKENS: Final = 256
"""For what a server's chat template adds around the message, and for the note of a repair turn."""
_LEAST_ANSWER_TOKENS: Final = 64
"""An answer is not cut below this; a prompt that still does not fit fails."""


@dataclass(frozen=True)
class Call:
    """One request's share of the answers: their places, their texts as shown, characters cut.

    `prompt_tokens` and `spare_tokens` (what the context has left beside prompt and reply) are
    `None` where no context is configured.
    """

    places: tuple[int, ...]
    texts: tuple[str, ...]
    cut_characters: int
    prompt_tokens: int | None = None
    spare_tokens: int | None = None


class ContextWindow:
    """What fits into one role's context; raises `JudgeFailure(context_overflow)` else."""

    def __init__(self, role: str, settings: RoleSettings, overflow: Overflow) -> None:
        self._role = role
        self._context = settings.context_tokens
        self._reply = settings.max_tokens
        self._overflow = overflow
        self._count = _counter(role, settings.tokenizer)
        if self._context is not None and self._context <= self._reply + _FRAME_TOKENS:
            raise ConfigurationError(
                f"ropd.judge.{role}.context_tokens={self._context} leaves no room for a prompt "
                f"beside max_tokens={self._reply}: raise the one or lower the other"
            )

    def plan(self, frame: Sequence[str], answers: Sequence[str]) -> list[Call]:
        """The calls that show every answer once, in order, beside the texts of `frame`.

        One call, unless the role splits.
        """
        everyone = tuple(range(len(answers)))
        if self._context is None:
            return [Call(everyone, tuple(answers), 0)]
        fixed = _FRAME_TOKENS + sum(self._count(text) for text in frame)
        sizes = [self._count(answer) for answer in answers]
        room = self._context - self._reply - fixed
        needed = sum(sizes) + _FENCE_TOKENS * len(sizes)
        if needed <= room:
            return [Call(everyone, tuple(answers), 0, fixed + needed, room - needed)]
        if self._overflow == "fail":
            raise self._failure(fixed + sum(sizes))
        chunks = _packed(sizes, room) if self._overflow == "split" else [everyone]
        return [self._fitted(chunk, answers, sizes, fixed, room) for chunk in chunks]

    def _fitted(
        self,
        chunk: tuple[int, ...],
        answers: Sequence[str],
        sizes: Sequence[int],
        fixed: int,
        room: int,
    ) -> Call:
        fences = _FENCE_TOKENS * len(chunk)
        cap = _water_level([sizes[place] for place in chunk], room - fences)
        if cap < _LEAST_ANSWER_TOKENS:
            raise self._failure(fixed + sum(sizes[place] for place in chunk))
        texts = tuple(
            answers[place] if sizes[place] <= cap else cut_middle(answers[place], cap, self._count)
            for place in chunk
        )
        lost = sum(len(answers[place]) for place in chunk) - sum(map(len, texts))
        needed = fences + sum(min(sizes[place], cap) for place in chunk)
        return Call(chunk, texts, max(0, lost), fixed + needed, room - needed)

    def _failure(self, tokens: int) -> JudgeFailure:
        return JudgeFailure(
            FailureKind.CONTEXT_OVERFLOW,
            self._role,
            f"the prompt needs about {tokens} tokens, which with max_tokens={self._reply} exceeds "
            f"ropd.judge.{self._role}.context_tokens={self._context} (ropd.verification.overflow="
            f"{self._overflow})",
        )


def estimated_tokens(text: str) -> int:
    """A high estimate without a tokenizer."""
    data = text.encode("utf-8", "replace")
    without_letters = data.translate(None, _LETTERS)
    spaces = len(without_letters) - len(without_letters.translate(None, _SPACES))
    letters = len(data) - len(without_letters)
    return letters // 3 + spaces // 4 + len(without_letters) - spaces


def cut_middle(text: str, cap: int, count: Callable[[str], int]) -> str:
    """`text` with its middle replaced by a mark, so that it counts at most `cap` tokens."""
    kept = len(text)
    while kept > 0:
        size = count(_without_middle(text, kept))
        if size <= cap:
            break
        kept = min(kept - 1, int(kept * cap / size))
    return _without_middle(text, kept)


def _without_middle(text: str, kept: int) -> str:
    if kept >= len(text):
        return text
    head, tail = text[: kept - kept // 2], text[len(text) - kept // 2 :]
    return f"{head}\n[... {len(text) - kept} characters left out here ...]\n{tail}"


def _water_level(sizes: Sequence[int], room: int) -> int:
    """The largest cap under which sum(min(size, cap)) fits into `room`."""
    left, ordered = room, sorted(sizes)
    for index, size in enumerate(ordered):
        share = left // (len(ordered) - index)
        if size > share:
            return share
        left -= size
    return max(sizes, default=0)


def _packed(sizes: Sequence[int], room: int) -> list[tuple[int, ...]]:
    """Consecutive chunks that fit into `room` each; what exceeds it alone stands alone."""
    chunks: list[list[int]] = []
    used = 0
    for place, size in enumerate(sizes):
        needed = size + _FENCE_TOKENS
        if not chunks or used + needed > room:
            chunks.append([])
            used = 0
        chunks[-1].append(place)
        used += needed
    return [tuple(chunk) for chunk in chunks]


def _counter(role: str, tokenizer: str | None) -> Callable[[str], int]:
    if tokenizer is None:
        return estimated_tokens
    path = Path(tokenizer)
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigurationError(
            f"ropd.judge.{role}.tokenizer needs the package `tokenizers`: install it, or set null "
            "to estimate"
        ) from None
    if not file.is_file():
        raise ConfigurationError(
            f"ropd.judge.{role}.tokenizer={tokenizer}: no tokenizer.json there; name one, or set "
            "null to estimate"
        )
    loaded = Tokenizer.from_file(str(file))
    return lambda text: len(loaded.encode(text, add_special_tokens=False).ids)
