"""The reply schemas, held against the three grammar packages that judges are served with.

    python -m tests.real.grammars

Compiles both schemas with xgrammar, llguidance and outlines-core (those that are importable; at
least one must be) and has a model that picks any allowed token at random write twelve verdicts and
twelve rubrics under each. Prints how many the reader takes, and exits with 1 when a verdict is
refused or a wrong number is let through. No part of the suite: the packages are not in its
environment. The vocabulary is the 256 bytes and some longer tokens, so nothing is downloaded.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from algo.asking.extraction import InvalidReply, NoJson, extract_object
from algo.ropd.rubric import (
    RUBRIC_SCHEMA,
    VERIFIER_SCHEMA,
    parse_rubric,
    parse_verdicts,
    rubric_json_schema,
    verifier_json_schema,
)
from tests.builders.rubrics import rubric_of

ANSWERS, CRITERIA, REPLIES, LONGEST = 8, 6, 12, 20_000
VOCABULARY: Final = [bytes([byte]) for byte in range(256)] + [
    *(b"true", b"false", b'", "', b'": ', b": [true", b", false", b'{"', b'"}', b"}, ", b"],"),
    *(b"answer", b"_index", b"judgement", b" 1", b" 2", b"12", b"the ", b" of ", b"Task ", b"c1"),
    # As in a real vocabulary, few of the tokens end a string: two texts are not equal by chance.
    *(bytes((first, second)) for first in b"bdfgklmnprstvw" for second in b"aeiouy bdgmnrst"),
]
END: Final = len(VOCABULARY)


class Walk(Protocol):
    """A reply in the making: which tokens may follow, and one that does."""

    def allowed(self) -> Sequence[int]: ...

    def take(self, token: int) -> None: ...


def main() -> int:
    begun = [start() for start in (_xgrammar, _llguidance, _outlines)]
    engines = {name: start for name, start in begun if start is not None}
    absent = [name for name, start in begun if start is None]
    if not engines:
        print(f"none of {', '.join(absent)} is importable: install one in an environment of yours")
        return 1
    verdicts, rubrics = dict(verifier_json_schema(ANSWERS, CRITERIA)), rubric_json_schema((4, 12))
    right = {str(k): {"answer_index": k, "judgement": [True] * CRITERIA} for k in _numbers()}
    swapped = {**right, "1": right["2"], "2": right["1"]}
    sound = True
    for name, start in engines.items():
        walk = start(verdicts)
        taken = sum(_readable(_write(walk(), seed), _read_verdicts) for seed in range(REPLIES))
        written = sum(_readable(_write(start(rubrics)(), s), _read_rubric) for s in range(REPLIES))
        fits, misfits = _accepts(walk(), _reply(right)), _accepts(walk(), _reply(swapped))
        print(
            f"{name}: verdicts {taken}/{REPLIES}, rubrics {written}/{REPLIES}, right reply "
            f"{'taken' if fits else 'REFUSED'}, swapped {'TAKEN' if misfits else 'refused'}"
        )
        sound = sound and taken == REPLIES and fits and not misfits
    if absent:
        print(f"not importable here: {', '.join(absent)}")
    return 0 if sound else 1


def _numbers() -> range:
    return range(1, ANSWERS + 1)


def _reply(answers: dict[str, Any]) -> bytes:
    return json.dumps({"schema_version": VERIFIER_SCHEMA, "answers": answers}).encode()


def _write(walk: Walk, seed: int) -> str:
    """What a model without any preference writes; a reply that never ends is as it stands."""
    chance, written = random.Random(seed), b""
    while len(written) < LONGEST:
        token = chance.choice(walk.allowed())
        if token == END:
            break
        walk.take(token)
        written += VOCABULARY[token]
    return written.decode("utf-8", "replace")


def _accepts(walk: Walk, reply: bytes) -> bool:
    """Whether the grammar lets `reply` be written, byte by byte, and end."""
    for byte in reply:
        if byte not in walk.allowed():
            return False
        walk.take(byte)
    return END in walk.allowed()


def _readable(reply: str, read: Callable[[str], object]) -> bool:
    try:
        read(reply)
    except (InvalidReply, NoJson):
        return False
    return True


def _read_verdicts(reply: str) -> object:
    payload = extract_object(reply, VERIFIER_SCHEMA)
    return parse_verdicts(payload, ANSWERS, rubric_of(*[1] * CRITERIA))


def _read_rubric(reply: str) -> object:
    return parse_rubric(extract_object(reply, RUBRIC_SCHEMA), (4, 12))


Start = Callable[[dict[str, Any]], Callable[[], Walk]]


def _xgrammar() -> tuple[str, Start | None]:
    try:
        import xgrammar  # pyright: ignore[reportMissingImports]
    except ImportError:
        return "xgrammar", None
    size = END + 1
    vocabulary = xgrammar.TokenizerInfo(
        [*VOCABULARY, b""], xgrammar.VocabType.RAW, vocab_size=size, stop_token_ids=[END]
    )

    class XgrammarWalk:
        def __init__(self, compiled: Any) -> None:
            self._matcher = xgrammar.GrammarMatcher(compiled)
            self._mask = xgrammar.allocate_token_bitmask(1, size)

        def allowed(self) -> Sequence[int]:
            self._matcher.fill_next_token_bitmask(self._mask)
            words = [word & 0xFFFFFFFF for word in self._mask[0].tolist()]
            return [token for token in range(size) if words[token // 32] >> token % 32 & 1]

        def take(self, token: int) -> None:
            assert self._matcher.accept_token(token)

    def start(schema: dict[str, Any]) -> Callable[[], Walk]:
        compiled = xgrammar.GrammarCompiler(vocabulary).compile_json_schema(
            json.dumps(schema), any_whitespace=False
        )
        return lambda: XgrammarWalk(compiled)

    return "xgrammar", start


def _llguidance() -> tuple[str, Start | None]:
    try:
        import llguidance  # pyright: ignore[reportMissingImports]
        from llguidance._tokenizer import TokenizerWrapper  # pyright: ignore[reportMissingImports]
    except ImportError:
        return "llguidance", None

    class Bytes:
        eos_token_id = END
        bos_token_id = None
        tokens: Final = [*VOCABULARY, b"<end>"]
        special_token_ids: Final = [END]

        def __call__(self, text: bytes) -> list[int]:
            return list(text)

    vocabulary = llguidance.LLTokenizer(TokenizerWrapper(Bytes()))

    class GuidanceWalk:
        def __init__(self, grammar: str) -> None:
            self._matcher = llguidance.LLMatcher(vocabulary, grammar)
            if self._matcher.is_error():
                raise SystemExit(f"llguidance: {self._matcher.get_error()}")

        def allowed(self) -> Sequence[int]:
            if self._matcher.is_stopped():
                return [END]
            mask = self._matcher.compute_bitmask()
            return [token for token in range(END + 1) if mask[token // 8] >> token % 8 & 1]

        def take(self, token: int) -> None:
            assert self._matcher.consume_token(token)

    def start(schema: dict[str, Any]) -> Callable[[], Walk]:
        compact = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        grammar = llguidance.LLMatcher.grammar_from_json_schema(schema, defaults=compact)
        return lambda: GuidanceWalk(grammar)

    return "llguidance", start


def _outlines() -> tuple[str, Start | None]:
    try:
        import outlines_core  # pyright: ignore[reportMissingImports]
    except ImportError:
        return "outlines-core", None
    vocabulary = outlines_core.Vocabulary(
        END, {token: [number] for number, token in enumerate(VOCABULARY)}
    )

    class OutlinesWalk:
        def __init__(self, index: Any) -> None:
            self._guide = outlines_core.Guide(index)

        def allowed(self) -> Sequence[int]:
            return self._guide.get_tokens()

        def take(self, token: int) -> None:
            self._guide.advance(token, return_tokens=False)

    def start(schema: dict[str, Any]) -> Callable[[], Walk]:
        pattern = outlines_core.json_schema.build_regex_from_schema(json.dumps(schema))
        index = outlines_core.Index(pattern, vocabulary)
        return lambda: OutlinesWalk(index)

    return "outlines-core", start


if __name__ == "__main__":
    sys.exit(main())
