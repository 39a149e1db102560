"""Strict readings of JSON that a server wrote: every value has the type it is read as, or is none.

A reading raises `OddBody`, whose message is short and quotes nothing. Bounded in time too: what
would take the event loop longer than some 50 ms to decode is refused unread.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

# A rubric or a verdict has some hundred brackets and commas. Lists and objects are what decoding
# spends its time on: 100,000 of them take about 30 ms.
_MOST_PARTS: Final = 100_000
_MOST_TOKENS: Final = 1_000_000_000
_LONE_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


class OddBody(ValueError):
    """What a server sent is no reply; the message says in which way."""


def decoded(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`."""
    if sum(map(body.count, (b"[", b"{", b","))) > _MOST_PARTS:
        raise OddBody(f"it has more than {_MOST_PARTS} parts")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = _leniently(body)
    return mapping(value, "it")


def _leniently(body: bytes) -> Any:
    """A lone surrogate, which a model can write, or a NaN is no reason to pay again."""
    try:
        return json.loads(body)
    except RecursionError:
        raise OddBody("it is nested too deeply") from None
    except ValueError:
        raise OddBody("it is not JSON") from None


def encodable(text: str) -> str:
    """`text` with lone surrogates, which no request and no file can carry, replaced."""
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


def mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise OddBody(f"{name} is not an object")
    return value


def mappings(value: object, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise OddBody(f"{name} is not a list")
    return [mapping(entry, f"an entry of {name}") for entry in value]


def text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise OddBody(f"{name} is not a text")
    return encodable(value)


def word(value: object, name: str, default: str, longest: int = 100) -> str:
    """A short text, cut to `longest` characters; `default` where there is none."""
    return default if value is None or value == "" else text(value, name)[:longest]


def count(value: object) -> int | None:
    """A number of tokens; None where the server does not tell one that can be."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_TOKENS:
        return None
    return value


def part(value: object, key: str) -> object:
    """`value[key]` where there is one: for what a reply can do without."""
    return value.get(key) if isinstance(value, dict) else None
