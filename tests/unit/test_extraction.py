"""Finding the JSON in a reply."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.ropd.extraction import NoJson, extract_object, looks_like_refusal
from algo.ropd.rubric import InvalidReply

SCHEMA = "ropd.rubric.v1"
OBJECT: dict[str, Any] = {"schema_version": SCHEMA, "rubrics": [{"a": "} {"}, {"b": {"c": []}}]}
TEXT = json.dumps(OBJECT)


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


@pytest.mark.parametrize("text", ["I'm sorry, but no.", "I cannot help.", "As an AI, I", "Sorry!"])
def test_refusals_are_told_from_other_prose(text: str) -> None:
    assert looks_like_refusal(text)
    assert looks_like_refusal(f"<think>hm</think> {text}")
    assert not looks_like_refusal("The rubric: I cannot find a flaw")
