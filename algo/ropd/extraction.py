"""Finds the JSON object that a model was asked for inside whatever it wrote. Pure functions.

Prose before and after, code fences, think blocks and floods of whitespace are no error. The object
is recognised by its `schema_version`; two that differ are an error, since choosing one would be a
guess about what the model meant. What the object must hold is `rubric.py`'s part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from algo.ropd.rubric import InvalidReply
from algo.ropd.thinking import after_thinking

_MOST_STARTS: Final = 200
"""Opening braces that are tried before giving up: bounds the work on a hostile reply."""
_REFUSAL: Final = re.compile(
    r"\W*(i['\u2019]?m sorry|i am sorry|sorry|i apologi[sz]e|i can['\u2019]?t|i cannot|i can not"
    r"|i['\u2019]?m (not able|unable)|i am (not able|unable)|i won['\u2019]?t|as an ai)\b",
    re.IGNORECASE,
)


class NoJson(ValueError):
    """The reply holds no usable JSON; the message is written for the model that wrote it."""


def extract_object(text: str, schema_version: str) -> dict[str, Any]:
    """The object of `schema_version` in `text`.

    Raises `NoJson` when no complete JSON object names a schema, `InvalidReply` when none names
    this one or when two that differ do.
    """
    objects = [found for found in _objects(after_thinking(text)) if "schema_version" in found]
    if not objects:
        raise NoJson('it holds no complete JSON object with a "schema_version"')
    matching = [found for found in objects if found["schema_version"] == schema_version]
    if not matching:
        found = objects[-1]["schema_version"]
        raise InvalidReply(f'"schema_version" is {found!r}; it must be "{schema_version}"')
    if any(found != matching[0] for found in matching):
        raise InvalidReply("it holds several JSON objects that differ; give exactly one")
    return matching[0]


def looks_like_refusal(text: str) -> bool:
    """Whether a reply without JSON opens as models do when they decline."""
    return _REFUSAL.match(after_thinking(text)[:200]) is not None


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Top-level JSON objects from left to right; those nested in another are part of it."""
    position = 0
    for _ in range(_MOST_STARTS):
        position = text.find("{", position)
        if position < 0:
            return
        try:
            found, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            position += 1
        else:
            yield found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_without_repeats)
