"""Fitting a prompt into a context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo.asking.context import ContextWindow, cut_middle, estimated_tokens
from algo.errors import ConfigurationError, FailureKind, JudgeFailure
from algo.llm.settings import RoleSettings

FRAME = ["template " * 20, "question"]


def window(context: int | None, overflow: Any = "cut", reply: int = 100) -> ContextWindow:
    return ContextWindow(
        "verifier", RoleSettings(context_tokens=context, max_tokens=reply), overflow
    )


def test_without_a_context_nothing_is_counted_or_cut() -> None:
    (call,) = window(None).plan(FRAME, ["x" * 10**6])
    assert call.texts == ("x" * 10**6,)
    assert (call.cut_characters, call.prompt_tokens) == (0, None)


def test_what_fits_is_left_alone() -> None:
    (call,) = window(2000).plan(FRAME, ["short", "answers"])
    assert call.texts == ("short", "answers")
    assert call.cut_characters == 0


def test_only_the_longest_are_cut_and_in_the_middle() -> None:
    answers = ["short", "begin " + "filler " * 2000 + "end", "also short"]
    (call,) = window(1500).plan(FRAME, answers)
    assert call.texts[0] == "short"
    assert call.texts[2] == "also short"
    assert call.texts[1].startswith("begin ")
    assert call.texts[1].endswith("end")
    assert "characters left out here" in call.texts[1]
    assert call.cut_characters > 5000


@settings(deadline=None)
@given(st.lists(st.integers(0, 6000), min_size=1, max_size=12), st.integers(1500, 20000))
def test_a_planned_prompt_never_exceeds_the_context(sizes: list[int], context: int) -> None:
    answers = ["word 12 " * (size // 8) for size in sizes]
    for overflow in ("cut", "split"):
        try:
            calls = window(context, overflow).plan(FRAME, answers)
        except JudgeFailure:
            continue
        assert [place for call in calls for place in call.places] == list(range(len(answers)))
        for call in calls:
            tokens = sum(map(estimated_tokens, FRAME)) + sum(map(estimated_tokens, call.texts))
            assert call.prompt_tokens is not None
            assert call.spare_tokens is not None
            assert call.prompt_tokens + call.spare_tokens + 100 == context
            assert tokens + 64 * len(call.texts) + 256 + 100 <= context


def test_splitting_cuts_nothing_that_fits_alone() -> None:
    answers = ["word " * 500] * 6
    calls = window(2200, "split").plan(FRAME, answers)
    assert len(calls) > 1
    assert [text for call in calls for text in call.texts] == answers


def test_failing_is_an_overflow_that_names_the_settings() -> None:
    with pytest.raises(JudgeFailure) as failure:
        window(1000, "fail").plan(FRAME, ["word " * 5000])
    assert failure.value.kind is FailureKind.CONTEXT_OVERFLOW
    assert "ropd.judge.verifier.context_tokens=1000" in str(failure.value)


def test_a_question_that_leaves_no_room_fails_rather_than_losing_its_answers() -> None:
    with pytest.raises(JudgeFailure):
        window(1000).plan(["word " * 5000], ["an answer " * 50])


def test_a_context_without_room_for_a_prompt_is_refused_at_start() -> None:
    with pytest.raises(ConfigurationError, match=r"ropd\.judge\.verifier\.context_tokens=200"):
        window(200, reply=150)


@given(st.text(max_size=3000), st.integers(40, 500))
def test_a_cut_text_counts_no_more_than_its_cap(text: str, cap: int) -> None:
    assert estimated_tokens(cut_middle(text, cap, estimated_tokens)) <= cap


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    role = RoleSettings(tokenizer=str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"ropd\.judge\.verifier\.tokenizer"):
        ContextWindow("verifier", role, "cut")


def test_a_tokenizer_counts_exactly(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]")
    own = tokenizers.Tokenizer(words)
    own.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    own.save(str(tmp_path / "tokenizer.json"))
    role = RoleSettings(tokenizer=str(tmp_path), context_tokens=1000, max_tokens=10)
    (call,) = ContextWindow("verifier", role, "cut").plan([], ["a a a b"])
    assert call.prompt_tokens == 256 + 64 + 4


@pytest.mark.parametrize("text", ["", "plain words here", "3.14159", "\u4e2d\u6587", "\ud800"])
def test_the_estimate_is_high_for_every_kind_of_text(text: str) -> None:
    assert estimated_tokens(text) >= len(text.split())
