"""What a rollout is worth before anybody is asked, and what of it is judged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.judge.group import Rollout, Rule, rules_of
from algo.judge.record import recorded_rollout


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
        ("<think>a</think>\n<think>c", True, "unclosed_think"),
        ("<think>a</think>a block begins with <think>", True, None),
        ("a block begins with <think>", True, None),
        ("42", False, None),
        ("", False, "empty"),
        ("<think>42", False, "unclosed_think"),
    ],
)
def test_what_is_no_answer_scores_zero_by_name(text: str, finished: bool, rule: str | None) -> None:
    assert Rollout(text, finished).rule("judge") == rule


@given(st.text(), st.booleans())
def test_a_cut_off_rollout_scores_zero_where_the_configuration_says_so(
    text: str, thinks: bool
) -> None:
    assert Rollout(text, False, thinks).rule("zero") == "unfinished"
    finished = Rollout(text, True, thinks)
    assert (
        finished.rule("zero")
        == finished.rule("judge")
        == Rollout(text, False, thinks).rule("judge")
    )


TAGGED = st.lists(st.sampled_from(["<think>", "</think>", "42", " so ", "\n"])).map("".join)


@given(TAGGED)
def test_without_thinking_tags_are_words_and_hide_nothing(text: str) -> None:
    rollout = Rollout(text, True, thinks=False)
    assert rollout.answer == text.strip()
    assert rollout.rule("judge") in (None, "empty")
    if "42" in text:
        assert rollout.rule("judge") is None


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="<")))
def test_only_the_text_after_the_last_think_block_is_judged(thinking: str, answer: str) -> None:
    assert Rollout(f"<think>{thinking}</think>{answer}", True).answer == answer.strip()


ROLLOUTS = st.lists(st.builds(Rollout, TAGGED, st.booleans(), st.booleans()), min_size=1)


@given(ROLLOUTS)
def test_what_was_cut_off_is_left_out_but_never_a_whole_group(rollouts: list[Rollout]) -> None:
    dropped, zeroed = rules_of(rollouts, "drop"), rules_of(rollouts, "zero")
    some_finished = any(rollout.finished for rollout in rollouts)
    for rollout, drop, zero in zip(rollouts, dropped, zeroed, strict=True):
        assert (drop is Rule.DROPPED) == (some_finished and not rollout.finished)
        assert drop in (zero, Rule.DROPPED)
    assert any(rule is not Rule.DROPPED for rule in dropped)


@given(st.text(), st.text(), st.booleans())
def test_a_mention_of_the_tag_is_no_thought(before: str, after: str, finished: bool) -> None:
    """Whatever words stand before it, outside of a block."""
    before = before.replace("</think>", "")
    rollout = Rollout(
        f"<think>so</think>By {before} the tag <think> {after.replace('<', '')}", finished
    )
    assert rollout.rule("judge") is None


@given(ROLLOUTS)
def test_a_record_gives_the_rollouts_back(rollouts: list[Rollout]) -> None:
    for rollout in rollouts:
        entry = {"text": rollout.text, "finished": rollout.finished, "thinks": rollout.thinks}
        assert recorded_rollout(entry) == rollout
    assert recorded_rollout({"text": "<think>a</think>b", "finished": True}).answer == "b"
