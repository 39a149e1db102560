"""What a rollout is worth before anybody is asked, and what of it is judged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.judge.group import Rollout, Rule, Unfinished, rules_of
from algo.judge.record import recorded_rollout
from algo.thinking import Thinking

POLICIES: tuple[Unfinished, ...] = ("judge", "zero", "drop")
PIECES = ("<think>", "</think>", "x = 42", " ", "\n", ":", "because", "the tag ")
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
ROLLOUTS = st.builds(Rollout, TEXTS, st.booleans(), st.sampled_from(Thinking))


def says_something(text: str) -> bool:
    return any(character.isalnum() for character in text)


@pytest.mark.parametrize(
    ("text", "finished", "judge", "zero"),
    [
        ("42", True, None, None),
        ("\u221e", True, None, None),
        ("\u7b54\u6848", True, None, None),
        ("<think>a</think>42", True, None, None),
        ("a</think>42", True, None, None),
        ("<think>a</think>b<think>c</think>42", True, None, None),
        ("<think>a</think>a block opens with <think>", True, None, None),
        ("", True, "empty", "empty"),
        (" \n\t\u00a0\u200b", True, "empty", "empty"),
        (":", True, "empty", "empty"),
        ("...!?", True, "empty", "empty"),
        ("<think>a</think>", True, "empty", "empty"),
        ("<think>a</think> \n", True, "empty", "empty"),
        ("<think> ", True, "empty", "empty"),
        ("<think>42", True, None, "unclosed_think"),
        ("<think>a</think>\n<think>c", True, None, "unclosed_think"),
        ("42", False, None, "unfinished"),
        ("<think>42", False, None, "unfinished"),
        ("", False, "empty", "unfinished"),
    ],
)
def test_which_rule_settles_a_rollout(
    text: str, finished: bool, judge: str | None, zero: str | None
) -> None:
    rollout = Rollout(text, finished)
    assert rules_of([rollout], "judge") == (judge,)
    assert rules_of([rollout], "zero") == (zero,)


@given(st.lists(ROLLOUTS, min_size=1, max_size=8))
def test_by_default_whatever_says_anything_is_judged(rollouts: list[Rollout]) -> None:
    for rollout, rule in zip(rollouts, rules_of(rollouts, "judge"), strict=True):
        words = rollout.answer
        if rollout.ends_in_thinking:
            words = words.removeprefix("<think>")
        assert rule == (None if says_something(words) else Rule.EMPTY)


@given(st.lists(ROLLOUTS, min_size=1, max_size=8))
def test_each_policy_settles_what_was_cut_off_in_its_own_way(rollouts: list[Rollout]) -> None:
    judged, zeroed, dropped = (rules_of(rollouts, policy) for policy in POLICIES)
    for place, rollout in enumerate(rollouts):
        if rollout.finished:
            assert zeroed[place] == dropped[place]
        else:
            assert judged[place] in (None, Rule.EMPTY)
            assert zeroed[place] is Rule.UNFINISHED
    assert [rule is Rule.DROPPED for rule in dropped] == [
        any(each.finished for each in rollouts) and not rollout.finished for rollout in rollouts
    ]
    assert any(rule is not Rule.DROPPED for rule in dropped)


@given(TEXTS, st.booleans(), st.sampled_from(POLICIES))
def test_without_thinking_tags_hide_nothing_and_begin_nothing(
    text: str, finished: bool, policy: Unfinished
) -> None:
    rollout = Rollout(text, finished, Thinking.OFF)
    assert rollout.answer == text.strip()
    assert rules_of([replace(rollout, finished=True)], policy) != (Rule.UNCLOSED_THINK,)


@given(TEXTS, TEXTS)
def test_an_open_thought_is_shown_whole(thought: str, before: str) -> None:
    thought = thought.replace("</think>", "")
    opened = Rollout(thought, False, Thinking.OPENED)
    begun = Rollout(f"<think>{before}</think><think>{thought}", False)
    assert opened.ends_in_thinking
    assert begun.ends_in_thinking
    assert opened.answer == thought.strip()
    assert begun.answer == f"<think>{thought}".strip()


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="<")))
def test_only_the_text_after_the_last_think_block_is_judged(thinking: str, answer: str) -> None:
    for kind in (Thinking.ON, Thinking.OPENED):
        rollout = Rollout(f"<think>{thinking}</think>{answer}", True, kind)
        assert rollout.answer == answer.strip()
        assert not rollout.ends_in_thinking


@given(ROLLOUTS)
def test_a_record_gives_the_rollout_back(rollout: Rollout) -> None:
    entry = {"text": rollout.text, "finished": rollout.finished, "thinking": str(rollout.thinking)}
    assert recorded_rollout(entry) == rollout


def test_a_record_of_an_earlier_version_reads_tags_as_thinking() -> None:
    entry = {"text": "<think>a</think>b", "finished": True}
    assert recorded_rollout(entry).answer == "b"
