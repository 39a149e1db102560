"""Grading against ground truth: final answers only, every rule, hostile expressions bounded."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo.errors import ConfigurationError
from algo.grading import math_equivalence
from algo.grading.ground_truth import can_grade, grade
from algo.thinking import after_thinking, is_unclosed


@pytest.mark.parametrize(
    ("text", "truth", "score"),
    [
        ("7+5 write 2 carry 1\nanswer 12", "12", 1.0),
        ("answer 12\n", 12, 1.0),
        ("Answer: 12", "12", 1.0),
        ("answer 12 or so", "12", 0.0),
        ("answer 112", "12", 0.0),
        ("answer 012", "12", 0.0),
        ("12", "12", 0.0),
        ("answer 12\nanswer 13", "12", 0.0),
        ("answer ١٢", "12", 0.0),
        ("", "12", 0.0),
    ],
)
def test_arithmetic_compares_the_final_answer_exactly(
    text: str, truth: object, score: float
) -> None:
    assert grade("arithmetic", text, truth) == score


@settings(deadline=None)
@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_arithmetic_is_right_exactly_when_the_numbers_are_equal(stated: int, truth: int) -> None:
    assert grade("arithmetic_sum", f"so\nanswer {stated}", truth) == float(stated == truth)


@pytest.mark.parametrize(
    ("text", "truth", "score"),
    [
        ("Thus. Answer: 34", "34", 1.0),
        (r"so \boxed{\frac12}", "0.5", 1.0),
        (r"hence the answer is $\frac{2}{4}$", r"\frac{1}{2}", 1.0),
        (r"hence $\frac{2}{4}$", r"\frac{1}{2}", 0.0),
        ("it is 34", "34", 0.0),
        (r"\boxed{35}. I first had 34", "34", 0.0),
        (r"\boxed{34", "34", 0.0),
        (r"<think>\boxed{34}</think>It is \boxed{35}.", "34", 0.0),
        (r"<think>never ended \boxed{34}", "34", 0.0),
        ("", "34", 0.0),
    ],
)
def test_math_compares_values(text: str, truth: str, score: float) -> None:
    for source in ("math_own", "dapo_math", "aime24", "hmmt25_feb"):
        assert grade(source, text, truth) == score


def test_an_expression_that_never_ends_is_wrong_and_the_next_one_is_graded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert grade("math", r"\boxed{1}", "1") == 1.0
    monkeypatch.setattr(math_equivalence, "LIMIT_S", 0.5)
    assert grade("math", r"\boxed{2^{2024^{2024}}}", "1") == 0.0
    monkeypatch.undo()
    assert grade("math", r"\boxed{1}", "1") == 1.0


def test_math_is_graded_from_any_thread() -> None:
    scores: list[float] = []
    threads = [
        threading.Thread(target=lambda: scores.append(grade("math", r"\boxed{7}", "7")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scores == [1.0] * 4


def test_missing_math_verify_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_equivalence, "find_spec", lambda _: None)
    monkeypatch.setattr(math_equivalence, "_CHILDREN", math_equivalence._children())
    with pytest.raises(ConfigurationError, match=r"ropd\[math\]"):
        grade("math", r"\boxed{1}", "1")


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Answer: C", 1.0),
        (r"Therefore \boxed{C}", 1.0),
        (r"\boxed{\text{(C)}}", 1.0),
        ("**Answer:** (C)", 1.0),
        ("The answer is C.", 1.0),
        ("Not option A. The answer is C", 1.0),
        ("The answer is C. No: answer B", 0.0),
        ("reasoning\nC", 1.0),
        ("Carbon is an element", 0.0),
        ("Answer: C\nSo the answer is a consequence of b.", 1.0),
        ("Answer: C. My choice I think is right.", 1.0),
        (r"\boxed{c}", 1.0),
    ],
)
def test_choice_reads_the_last_stated_letter(text: str, score: float) -> None:
    assert grade("gpqa_diamond", text, "C") == score


def test_unknown_data_source_names_the_column_and_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"data_source.*poetry.*arithmetic.*gpqa"):
        grade("poetry", "roses", "red")
    assert not can_grade("poetry")
    assert can_grade("aime25")


def test_row_without_ground_truth_is_refused() -> None:
    for truth in (None, " "):
        with pytest.raises(ConfigurationError, match=r"reward_model\.ground_truth is empty"):
            grade("aime24", r"\boxed{1}", truth)


@settings(deadline=None)
@given(st.text(), st.text().filter(lambda text: "think>" not in text))
def test_only_text_after_the_last_think_block_counts(before: str, final: str) -> None:
    assert after_thinking(f"<think>{before}</think>{final}") == final
    assert is_unclosed(f"{before}</think><think>{final}")
    assert not is_unclosed(f"<think>{before}</think>{final}")
