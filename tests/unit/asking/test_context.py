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
NONCE = "0123456789abcdef"


def window(context: int | None, overflow: Any = "cut", reply: int = 100) -> ContextWindow:
    return ContextWindow(
        "verifier", RoleSettings(context_tokens=context, max_tokens=reply), overflow
    )


def test_without_a_context_nothing_is_counted_or_cut() -> None:
    (call,) = window(None).plan(FRAME, ["x" * 10**6], NONCE)
    assert call.texts == ("x" * 10**6,)
    assert (call.cut_characters, call.prompt_tokens) == (0, None)


def test_what_fits_is_left_alone() -> None:
    (call,) = window(2000).plan(FRAME, ["short", "answers"], NONCE)
    assert call.texts == ("short", "answers")
    assert call.cut_characters == 0


def test_a_cut_is_in_the_middle_and_carries_the_nonce() -> None:
    answers = ["short", "begin " + "filler " * 2000 + "end", "also short"]
    (call,) = window(1500).plan(FRAME, answers, NONCE)
    assert call.texts[0] == "short"
    assert call.texts[2] == "also short"
    assert call.texts[1].startswith("begin ")
    assert call.texts[1].endswith("end")
    assert f" characters left out here {NONCE} ...]" in call.texts[1]
    assert call.cut_characters > 5000


def test_all_answers_lose_the_same_share_of_themselves() -> None:
    lengths = (20, 400, 800, 3200)
    answers = ["filler " * length for length in lengths]
    (call,) = window(4500).plan(FRAME, answers, NONCE)
    assert call.texts[0] == answers[0]
    kept = [len(text) / len(whole) for text, whole in zip(call.texts, answers, strict=True)]
    assert 0.3 < min(kept) < 0.5
    assert max(kept[1:]) - min(kept[1:]) < 0.02


@given(st.lists(st.integers(0, 400), min_size=1, max_size=12), st.integers(600, 3000))
def test_no_answer_is_cut_below_the_least_while_there_is_room(
    words: list[int], context: int
) -> None:
    answers = ["filler " * number for number in words]
    sizes = [estimated_tokens(answer) for answer in answers]
    room = context - 100 - 256 - sum(map(estimated_tokens, FRAME)) - 64 * len(answers)
    floors = sum(min(size, 64) for size in sizes)
    try:
        (call,) = window(context).plan(FRAME, answers, NONCE)
    except JudgeFailure:
        assert floors > room
        return
    assert floors <= room
    for text, answer, size in zip(call.texts, answers, sizes, strict=True):
        assert text == answer or size > 64


def test_what_every_call_shows_is_in_each_and_the_others_once() -> None:
    answers = ["word " * 300] * 8
    calls = window(2200, "split").plan(FRAME, answers, NONCE, always=(0, 1))
    assert len(calls) > 1
    assert all(call.places[:2] == (0, 1) for call in calls)
    assert [place for call in calls for place in call.places[2:]] == [2, 3, 4, 5, 6, 7]
    assert all(text == answers[0] for call in calls for text in call.texts)


def test_a_template_without_room_beside_it_is_refused_at_start() -> None:
    with pytest.raises(ConfigurationError, match=r"ropd\.judge\.verifier\.context_tokens=1000 .*"):
        window(1000).check_frame("word " * 500)
    window(None).check_frame("word " * 500)


def test_the_smallest_context_holds_one_short_answer() -> None:
    least = 100 + 256 + 64 + 64
    (call,) = window(least).plan([], ["word " * 500], "0" * 16)
    assert call.prompt_tokens == least - 100
    with pytest.raises(ConfigurationError, match="context_tokens=483"):
        window(least - 1)


def test_a_tokenizer_that_cuts_texts_for_training_counts_them_whole(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]")
    own = tokenizers.Tokenizer(words)
    own.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    own.enable_truncation(8)
    own.enable_padding(length=16)
    own.save(str(tmp_path / "tokenizer.json"))
    role = RoleSettings(tokenizer=str(tmp_path), context_tokens=1000, max_tokens=10)
    for number in (1, 100):
        (call,) = ContextWindow("verifier", role, "cut").plan([], ["a " * number + "\ud800"], NONCE)
        assert call.prompt_tokens == 256 + 64 + number + 1


@settings(deadline=None)
@given(st.lists(st.integers(0, 6000), min_size=1, max_size=12), st.integers(1500, 20000))
def test_a_planned_prompt_never_exceeds_the_context(sizes: list[int], context: int) -> None:
    answers = ["word 12 " * (size // 8) for size in sizes]
    for overflow in ("cut", "split"):
        try:
            calls = window(context, overflow).plan(FRAME, answers, NONCE)
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
    calls = window(2200, "split").plan(FRAME, answers, NONCE)
    assert len(calls) > 1
    assert [text for call in calls for text in call.texts] == answers


def test_failing_is_an_overflow_that_names_the_settings() -> None:
    with pytest.raises(JudgeFailure) as failure:
        window(1000, "fail").plan(FRAME, ["word " * 5000], NONCE)
    assert failure.value.kind is FailureKind.CONTEXT_OVERFLOW
    assert "ropd.judge.verifier.context_tokens=1000" in str(failure.value)


def test_a_question_that_leaves_no_room_fails_rather_than_losing_its_answers() -> None:
    with pytest.raises(JudgeFailure):
        window(1000).plan(["word " * 5000], ["an answer " * 50], NONCE)


def test_a_context_without_room_for_a_prompt_is_refused_at_start() -> None:
    with pytest.raises(ConfigurationError, match=r"ropd\.judge\.verifier\.context_tokens=200"):
        window(200, reply=150)


@given(st.text(max_size=3000), st.integers(64, 500))
def test_a_cut_text_counts_no_more_than_its_cap(text: str, cap: int) -> None:
    assert estimated_tokens(cut_middle(text, cap, estimated_tokens, "0" * 16)) <= cap


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
    (call,) = ContextWindow("verifier", role, "cut").plan([], ["a a a b"], NONCE)
    assert call.prompt_tokens == 256 + 64 + 4


@pytest.mark.parametrize("text", ["", "plain words here", "3.14159", "\u4e2d\u6587", "\ud800"])
def test_the_estimate_is_high_for_every_kind_of_text(text: str) -> None:
    assert estimated_tokens(text) >= len(text.split())
