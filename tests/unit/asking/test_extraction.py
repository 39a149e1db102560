"""Finding the JSON in a reply."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.asking.extraction import CutShort, NoJson, extract_object, looks_like_refusal
from algo.ropd.rubric import InvalidReply

SCHEMA = "ropd.rubric.v1"
OBJECT: dict[str, Any] = {"schema_version": SCHEMA, "rubrics": [{"a": "} {"}, {"b": {"c": []}}]}
TEXT = json.dumps(OBJECT)
DRAFT = json.dumps({**OBJECT, "rubrics": ["a draft"]})
PROSE = st.text(alphabet=st.characters(exclude_characters="{}<`", codec="utf-8"), max_size=50)


@pytest.mark.parametrize(
    "reply",
    [
        TEXT,
        f"```json\n{TEXT}\n```",
        f"Here is the rubric: {TEXT} Hope it helps.",
        f"<think>maybe {{}} or {TEXT[:30]} or {json.dumps({**OBJECT, 'x': 1})}</think>{TEXT}",
        f"unbalanced {{ brace and {{'python': 1}} first. {TEXT}",
        f"{TEXT}\n{TEXT}",
        TEXT + " \n\t" * 100_000,
        " " * 100_000 + TEXT,
        json.dumps(OBJECT, indent=8),
        "{" * 150 + TEXT,
    ],
)
def test_what_stands_around_the_object_does_not_matter(reply: str) -> None:
    assert extract_object(reply, SCHEMA) == OBJECT


@given(
    st.text(alphabet=st.characters(exclude_characters="{}<", codec="utf-8"), max_size=50),
    st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=4),
    st.text(alphabet=st.characters(exclude_characters="{}<", codec="utf-8"), max_size=50),
)
def test_any_object_is_found_in_any_prose(before: str, entries: dict[str, str], after: str) -> None:
    wanted = {**entries, "schema_version": SCHEMA}
    assert extract_object(before + json.dumps(wanted) + after, SCHEMA) == wanted


@given(st.text(max_size=300))
def test_no_text_breaks_the_search(text: str) -> None:
    with pytest.raises((NoJson, InvalidReply)):
        extract_object(text, "no.such.schema")


@pytest.mark.parametrize(
    "reply", ["", "no json", "[1, 2]", TEXT[:-2], "{" * 100_000, '{"a":' * 50_000, "<think>" + "{"]
)
def test_no_object_is_said_to_be_none(reply: str) -> None:
    with pytest.raises(NoJson):
        extract_object(reply, SCHEMA)


@pytest.mark.parametrize(
    "reply",
    [
        TEXT.replace(SCHEMA, "ropd.rubric.v9"),
        TEXT + json.dumps({**OBJECT, "rubrics": []}),
    ],
    ids=["another schema", "two that differ"],
)
def test_an_object_that_cannot_be_meant_is_not_taken(reply: str) -> None:
    with pytest.raises(InvalidReply):
        extract_object(reply, SCHEMA)


def test_a_key_that_occurs_twice_makes_an_object_unusable() -> None:
    with pytest.raises(NoJson):
        extract_object(f'{{"schema_version": "{SCHEMA}", "rubrics": [], "rubrics": [1]}}', SCHEMA)


@given(st.text(alphabet=st.characters(exclude_characters="<", codec="utf-8")), PROSE, st.booleans())
def test_a_draft_in_thinking_that_never_ends_is_no_answer(
    before: str, after: str, cut_off: bool
) -> None:
    with pytest.raises(CutShort if cut_off else NoJson):
        extract_object(f"<think>{before}{DRAFT}{after}", SCHEMA, cut_off=cut_off)
    with pytest.raises(CutShort if cut_off else NoJson):
        extract_object(f"{DRAFT}<think>{after}", SCHEMA, cut_off=cut_off)


@given(PROSE, PROSE, st.sampled_from(["<think>", ""]), st.data())
def test_wherever_a_reply_is_cut_off_no_draft_is_taken(
    before: str, after: str, opening: str, data: st.DataObject
) -> None:
    """Without the opening tag where a chat template writes it."""
    thinking = f"{opening}{before}{DRAFT}{after}. Wait"
    whole = f"{thinking}</think>\nSo:\n```json\n{TEXT}\n```"
    answered = whole.index(TEXT) + len(TEXT)
    end = data.draw(st.integers(0, len(whole)))
    draft_ends = len(opening + before + DRAFT)
    if not opening and not whole[draft_ends:end].strip():
        end = len(thinking)  # cut off right behind its draft, thinking looks like an answer
    if answered <= end:
        assert extract_object(whole[:end], SCHEMA, cut_off=True) == OBJECT
    else:
        with pytest.raises(CutShort):
            extract_object(whole[:end], SCHEMA, cut_off=True)


@pytest.mark.parametrize("tail", [" Hmm", "\n```\nThat is", " {", TEXT[:9], "</s>"])
def test_a_cut_off_reply_ends_with_its_object_or_has_none(tail: str) -> None:
    assert extract_object(TEXT + tail, SCHEMA) == OBJECT
    with pytest.raises(CutShort):
        extract_object(TEXT + tail, SCHEMA, cut_off=True)


@pytest.mark.parametrize("tail", ["", "\n`", "\n```", " \n\t" * 1000, "\n```\n\n"])
def test_a_flood_of_white_space_after_the_object_is_no_loss(tail: str) -> None:
    assert extract_object(f"```json\n{TEXT}{tail}", SCHEMA, cut_off=True) == OBJECT


def test_a_tag_in_a_string_opens_no_thinking() -> None:
    wanted = {**OBJECT, "rubrics": ["It has no <think> tag."]}
    for cut_off in (True, False):
        assert extract_object(json.dumps(wanted), SCHEMA, cut_off=cut_off) == wanted


@pytest.mark.parametrize("text", ["I'm sorry, but no.", "I cannot help.", "As an AI, I", "Sorry!"])
def test_refusals_are_told_from_other_prose(text: str) -> None:
    assert looks_like_refusal(text)
    assert looks_like_refusal(f"<think>hm</think> {text}")
    assert not looks_like_refusal("The rubric: I cannot find a flaw")


@pytest.mark.parametrize("before", ["", "<think>so {x} </think>", "so</think>", "Here:\n```json\n"])
@pytest.mark.parametrize("after", ["", "\n```\nThat is all."])
@pytest.mark.parametrize(
    "words", ["leaves out </think>", "<think>a</think>b</think>", '</think>" quoted \\']
)
def test_a_tag_within_the_object_is_a_word_of_it(before: str, after: str, words: str) -> None:
    reply = {"schema_version": "v", "criteria": [words, "plain", words]}
    assert extract_object(f"{before}{json.dumps(reply)}{after}", "v") == reply


def test_a_draft_with_a_tag_in_it_is_no_answer_where_thinking_goes_on() -> None:
    draft = json.dumps({"schema_version": "v", "criteria": ["leaves out </think>"]})
    with pytest.raises(NoJson):
        extract_object(f"<think>a draft {draft} which I doubt", "v")
    answer = json.dumps({"schema_version": "v", "criteria": ["other </think>"]})
    assert extract_object(f"<think>{draft} no.</think>{answer}", "v") == json.loads(answer)
