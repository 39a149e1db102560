"""No error text shows a key, and nothing else is ever rewritten."""

from __future__ import annotations

import base64
import json
import random
from urllib.parse import quote

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from algo.llm.endpoint import Endpoint
from algo.llm.http.wire import Fault, parse_reply
from algo.llm.redaction import SHORTEST_KEY, redacted
from algo.llm.settings import RoleSettings

PRINTABLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
KEYS = st.text(PRINTABLE, min_size=SHORTEST_KEY, max_size=60)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def endpoint(key: str) -> Endpoint:
    return Endpoint("verifier", "m", "http://h/v1", RoleSettings(), SecretStr(key))


def spellings(key: str, drawn: random.Random) -> list[str]:
    """The key letter by letter, as servers and proxies quote it."""
    escapes = [
        lambda letter: letter,
        lambda letter: json.dumps(letter)[1:-1],
        lambda letter: f"\\u{ord(letter):04x}",
        lambda letter: f"\\u{ord(letter):04X}",
        lambda letter: f"%{ord(letter):02X}",
        lambda letter: f"%{ord(letter):02x}",
    ]
    return [
        quote(key, safe=""),
        quote(quote(key, safe=""), safe=""),
        json.dumps(json.dumps(key)[1:-1])[1:-1],
        *("".join(map(escape, key)) for escape in escapes),
        "".join(drawn.choice(escapes)(letter) for letter in key),
    ]


def encodings(key: str) -> list[str]:
    """The key in base64, alone or within another text."""
    encoded = [
        base64.b64encode(secret.encode()).decode()
        for secret in (key, f"Bearer {key}", f"user:{key}", f"k={key}&more")
    ]
    return [
        *encoded,
        *(text.rstrip("=") for text in encoded),
        *(text.translate(str.maketrans("+/", "-_")) for text in encoded),
        *(quote(text, safe="") for text in encoded),
        *(text.replace("/", "\\/") for text in encoded),
    ]


AROUND = st.text(st.characters(exclude_categories=["Cs"]), max_size=SHORTEST_KEY - 1)
"""Too short to hold a key."""


@settings(deadline=None)
@example("00000000000u", "", "", 0)
@example("00000000000%", "", "", 0)
@given(KEYS, AROUND, AROUND, st.integers(0, 2**32))
def test_no_error_text_holds_a_key_in_any_writing(
    key: str, before: str, after: str, seed: int
) -> None:
    for written in spellings(key, random.Random(seed)):
        left = redacted(f"{before} {written} {after}".encode(), key).decode()
        assert left == f"{before} (key) {after}"
    for written in encodings(key):
        left = redacted(f"{before} {written} {after}".encode(), key).decode()
        assert "(key)" in left
        assert written not in left


@given(KEYS, st.integers(16_384 - 200, 16_384 + 10))
def test_no_part_of_a_key_is_left_where_a_long_error_is_cut(key: str, place: int) -> None:
    left = redacted(b" " * place + key.encode() + b" " * 500, key)
    assert b"(key)".startswith(left.strip())


@example("test", "This is a test.")
@example("true", "true")
@example("x", "xxx")
@given(st.text(PRINTABLE, min_size=1, max_size=30), WORDS)
def test_a_reply_arrives_unchanged_under_any_key(key: str, text: str) -> None:
    for said in (text, f"{text}{key}", f'{{"{key}": true}}'):
        body = {"model": key, "choices": [{"message": {"content": said}, "finish_reason": key}]}
        reply = parse_reply(endpoint(key), orjson.dumps(body), 0.0, 1)
        assert (reply.text, reply.model) == (said, key)


@pytest.mark.parametrize("key", ["none", "test", "x", "true", "k" * (SHORTEST_KEY - 1)])
def test_a_placeholder_is_a_word_like_any_other(key: str) -> None:
    assert redacted(f"the {key} is {key}".encode(), key).decode() == f"the {key} is {key}"


@given(KEYS)
def test_a_200_that_is_no_reply_is_quoted_without_the_key(key: str) -> None:
    body = f"<html>Your key {key} is unknown</html>".encode()
    with pytest.raises(Fault) as fault:
        parse_reply(endpoint(key), body, 0.0, 1)
    quoted = fault.value.message.partition(": ")[2]  # before it stand words of ours
    assert key not in quoted
    assert "Your key (key) is unknown" in fault.value.message
