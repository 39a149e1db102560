"""What a rollout is worth before anybody is asked, and what of it is judged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.judge.group import Rollout


@pytest.mark.parametrize(
    ("text", "finished", "rule"),
    [
        ("42", True, None),
        ("\u221e", True, None),
        ("\u7b54\u6848", True, None),
        ("<think>a</think>42", True, None),
        ("a</think>42", True, None),
        ("<think>a</think>b<think>c</think>42", True, None),
        ("", True, "empty"),
        (" \n\t\u00a0\u200b", True, "empty"),
        (":", True, "empty"),
        ("...!?", True, "empty"),
        ("<think>a</think>", True, "empty"),
        ("<think>a</think> \n", True, "empty"),
        ("<think>42", True, "unclosed_think"),
        ("<think>a</think>b<think>c", True, "unclosed_think"),
        ("42", False, "unfinished"),
        ("", False, "unfinished"),
    ],
)
def test_what_is_no_answer_scores_zero_by_name(text: str, finished: bool, rule: str | None) -> None:
    assert Rollout(text, finished).rule == rule


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="<")))
def test_only_the_text_after_the_last_think_block_is_judged(thinking: str, answer: str) -> None:
    assert Rollout(f"<think>{thinking}</think>{answer}", True).answer == answer.strip()
