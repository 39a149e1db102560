"""Fits a prompt into a model's context before it is sent: what is cut, what is split, what fails.

Tokens are counted with the model's tokenizer when one is configured, else estimated high: three
letters a token, and one token for every digit, sign and byte outside ASCII. Without a configured
`context_tokens` nothing is counted or cut.

What must go is taken from all answers in proportion to their lengths, so that none is judged on a
smaller share of itself than another; only what is short already is left whole. An answer is cut in
the middle, since its beginning states the approach and its end the result. A mark tells how much is
missing, and carries the prompt's nonce, which no answer can know.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from string import ascii_letters
from typing import Final, Literal

from algo.asking.templates import inert
from algo.asking.tokens import JudgeTokenizer
from algo.errors import ConfigurationError, FailureKind, JudgeFailure
from algo.llm.settings import RoleSettings

Overflow = Literal["cut", "split", "fail"]

_LETTERS: Final = ascii_letters.encode()
_SPACES: Final = b" \t"
FENCE_TOKENS: Final = 64
"""For the two lines around a block: label and nonce, twice."""
FRAME_TOKENS: Final = 256
"""For what a server's chat template adds around the message, and for the note of a repair turn."""
_LEAST_ANSWER_TOKENS: Final = 64
"""An answer is not cut below this; a prompt that still does not fit fails."""


@dataclass(frozen=True)
class Call:
    """One request's share of the answers: their places, their texts as shown, characters cut.

    A place that every call shows is in each of them.

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
        named = settings.tokenizer
        tokenizer = None if named is None else JudgeTokenizer.read(role, named)
        self._count = estimated_tokens if tokenizer is None else tokenizer.count
        self.inert = inert if tokenizer is None else tokenizer.inert
        """Breaks up what this role's model would read as structure. What `plan` is given is inert
        already, so that what is counted is what is sent."""
        self.check_frame("")

    def check_frame(self, template: str) -> None:
        """Raise `ConfigurationError` where `template` leaves no room for a single answer."""
        if self._context is None:
            return
        frame = self._reply + FRAME_TOKENS + self._count(template)
        if self._context < frame + FENCE_TOKENS + _LEAST_ANSWER_TOKENS:
            raise ConfigurationError(
                f"ropd.judge.{self._role}.context_tokens={self._context} leaves no room for an "
                f"answer: max_tokens={self._reply} and the prompt's frame take {frame}. Raise the "
                "one or lower the other"
            )

    def plan(
        self,
        frame: Sequence[str],
        answers: Sequence[str],
        nonce: str,
        always: Collection[int] = (),
    ) -> list[Call]:
        """The calls that show every answer, in order, beside the texts of `frame`.

        One call, unless the role splits: then each call shows the answers at the places `always`
        and some of the others, of which each is shown once.
        """
        everyone = tuple(range(len(answers)))
        if self._context is None:
            return [Call(everyone, tuple(answers), 0)]
        fixed = FRAME_TOKENS + sum(self._count(text) for text in frame)
        sizes = [self._count(answer) for answer in answers]
        room = self._context - self._reply - fixed
        needed = sum(sizes) + FENCE_TOKENS * len(sizes)
        if needed <= room:
            return [Call(everyone, tuple(answers), 0, fixed + needed, room - needed)]
        if self._overflow == "fail":
            raise self._failure(fixed + sum(sizes))
        chunks = _packed(sizes, room, always) if self._overflow == "split" else [everyone]
        return [self._fitted(chunk, answers, sizes, fixed, room, nonce) for chunk in chunks]

    def _fitted(
        self,
        chunk: tuple[int, ...],
        answers: Sequence[str],
        sizes: Sequence[int],
        fixed: int,
        room: int,
        nonce: str,
    ) -> Call:
        fences = FENCE_TOKENS * len(chunk)
        caps = _caps([sizes[place] for place in chunk], room - fences)
        if caps is None:
            raise self._failure(fixed + sum(sizes[place] for place in chunk))
        texts = tuple(
            cut_middle(answers[place], cap, self._count, nonce)
            for place, cap in zip(chunk, caps, strict=True)
        )
        lost = sum(len(answers[place]) for place in chunk) - sum(map(len, texts))
        needed = fences + sum(caps)
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


def cut_middle(text: str, cap: int, count: Callable[[str], int], nonce: str) -> str:
    """`text` with its middle replaced by a mark, so that it counts at most `cap` tokens."""
    kept = len(text)
    while kept > 0:
        size = count(_without_middle(text, kept, nonce))
        if size <= cap:
            break
        kept = min(kept - 1, int(kept * cap / size))
    return _without_middle(text, kept, nonce)


def _without_middle(text: str, kept: int, nonce: str) -> str:
    if kept >= len(text):
        return text
    head, tail = text[: kept - kept // 2], text[len(text) - kept // 2 :]
    return f"{head}\n[... {len(text) - kept} characters left out here {nonce} ...]\n{tail}"


def _caps(sizes: Sequence[int], room: int) -> list[int] | None:
    """How many tokens each may keep, together at most `room`: the same share of each, but none
    below `_LEAST_ANSWER_TOKENS` or what it has. `None` where even that does not fit."""
    floors = [min(size, _LEAST_ANSWER_TOKENS) for size in sizes]
    left = room - sum(floors)
    if left < 0:
        return None
    cut = {place for place, size in enumerate(sizes) if size > _LEAST_ANSWER_TOKENS}
    while cut:
        total = sum(sizes[place] for place in cut)
        share = min(1.0, (left + _LEAST_ANSWER_TOKENS * len(cut)) / total)
        short = {place for place in cut if sizes[place] * share < _LEAST_ANSWER_TOKENS}
        if not short:
            return [
                int(size * share) if place in cut else floors[place]
                for place, size in enumerate(sizes)
            ]
        cut -= short
    return floors


def _packed(sizes: Sequence[int], room: int, always: Collection[int]) -> list[tuple[int, ...]]:
    """Chunks that fit into `room` each, all with the places `always`, of others consecutive ones;
    one that exceeds what is left stands with these alone."""
    left = room - sum(sizes[place] + FENCE_TOKENS for place in always)
    chunks: list[list[int]] = []
    used = 0
    for place, size in enumerate(sizes):
        if place in always:
            continue
        needed = size + FENCE_TOKENS
        if not chunks or used + needed > left:
            chunks.append([])
            used = 0
        chunks[-1].append(place)
        used += needed
    return [tuple(sorted((*always, *chunk))) for chunk in chunks or [[]]]
