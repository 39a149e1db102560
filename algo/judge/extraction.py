"""From whatever a model wrote to the JSON object that it was asked for. Pure functions.

Prose before and after, code fences, think blocks and floods of whitespace are no error. The object
is recognised by its `schema_version`; two that differ are an error, since choosing one would be a
guess about what the model meant. A draft is no answer: what stands in a think block that never
ended does not count, nor does what a reply wrote on after when it ran into its token limit. What
the object must hold is the method's part; `validated` reads it strictly, and `reply_schema`,
`strict_object` and `array` describe it to endpoints that take a JSON schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from algo.thinking import after_thinking, is_unclosed

_MOST_STARTS: Final = 200
"""Opening braces that are tried before giving up: bounds the work on a hostile reply."""
_REFUSAL: Final = re.compile(
    r"\W*(i['\u2019]?m sorry|i am sorry|sorry|i apologi[sz]e|i can['\u2019]?t|i cannot|i can not"
    r"|i['\u2019]?m (not able|unable)|i am (not able|unable)|i won['\u2019]?t|as an ai)\b",
    re.IGNORECASE,
)


class InvalidReply(ValueError):
    """A reply's JSON breaks the schema; the message is written for the model that wrote it."""


class NoJson(ValueError):
    """The reply holds no usable JSON; the message is written for the model that wrote it."""


class CutShort(NoJson):
    """The reply stopped at its token limit, and no complete object is the last thing in it."""


class _Span(NamedTuple):
    """An object and where it stands."""

    found: dict[str, Any]
    start: int
    end: int


def extract_object(text: str, schema_version: str, *, cut_off: bool = False) -> dict[str, Any]:
    """The object of `schema_version` in `text`; `cut_off` if `text` ends at its token limit.

    Raises `CutShort` when the limit came before the answer's end, `NoJson` when there is no
    answer or no complete JSON object that names a schema, `InvalidReply` when none names this one
    or when two that differ do.
    """
    written = after_thinking(text)
    spans = list(_objects(written))
    named = [span for span in spans if "schema_version" in span.found]
    thinks_still = is_unclosed(_prose(written, spans))
    if cut_off and (thinks_still or not named or not _is_blank(written[named[-1].end :])):
        raise CutShort("it was cut off at the token limit before the JSON ended")
    if thinks_still:
        raise NoJson("its thinking never ended, so it holds no answer")
    if not named:
        raise NoJson('it holds no complete JSON object with a "schema_version"')
    objects = [span.found for span in named]
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


def _objects(text: str) -> Iterator[_Span]:
    """Top-level JSON objects from left to right; those nested in another are part of it."""
    position = 0
    for _ in range(_MOST_STARTS):
        start = text.find("{", position)
        if start < 0:
            return
        try:
            found, position = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            position = start + 1
        else:
            yield _Span(found, start, position)


def _prose(text: str, spans: list[_Span]) -> str:
    """What stands around the objects: a tag in a JSON string is data and opens nothing."""
    starts = [*(span.start for span in spans), len(text)]
    ends = [0, *(span.end for span in spans)]
    return " ".join(text[end:start] for end, start in zip(ends, starts, strict=True))


def _is_blank(tail: str) -> bool:
    """Whether a tail says nothing: white space, and as much of a closing fence as there was."""
    return not tail.strip().strip("`")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_without_repeats)


class Value(BaseModel):
    """A part of a reply, or of what is made of it: frozen; keys it does not know are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")


Checked = TypeVar("Checked", bound=Value)


def validated(model: type[Checked], payload: Mapping[str, Any]) -> Checked:
    """`payload` as a `model`; raises `InvalidReply` that names the first five faults by path."""
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)[:5]
        raise InvalidReply(
            "; ".join(f"{_json_path(fault['loc'])}: {fault['msg']}" for fault in faults)
        ) from None


def _json_path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)[1:]


def check_schema(found: str, wanted: str) -> None:
    """Raise `InvalidReply` unless a reply's `schema_version` is the wanted one."""
    if found != wanted:
        raise InvalidReply(f'"schema_version" is {found!r}; it must be {wanted!r}')


def reply_schema(schema_version: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of a reply: an object that names its schema and has all of `properties`."""
    return strict_object(
        {"schema_version": {"type": "string", "enum": [schema_version]}, **properties}
    )


def strict_object(properties: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object with all of `properties`, in OpenAI's strict subset."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def array(items: dict[str, Any], least: int, most: int) -> dict[str, Any]:
    """The JSON schema of a list of `least` to `most` items."""
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}
