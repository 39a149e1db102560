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
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from algo.llm.http.reading import encodable
from algo.thinking import CLOSING_TAG, after_thinking, is_unclosed

_LONGEST_ANSWER: Final = 200_000
"""Characters that say something, in an answer: several times what a judge is allowed to write."""
_MOST_STARTS: Final = 200
"""Places that look like the start of an object and are decoded before giving up."""
_MOST_WASTED: Final = 400_000
"""Characters decoded in vain before giving up: each failed start may have read to the end."""
_MOST_PARTS: Final = 5_000
"""Brackets and commas of an object; 64 answers by 50 criteria have 3,400. Checking an object takes
time for each part."""
_DEEPEST: Final = 64
_LONGEST_QUOTED: Final = 80

_OPENING: Final = re.compile(r'\{[ \t\r\n]*["}]')
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")
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
    try:
        written, spans = _answer(text)
    except NoJson:
        if cut_off:
            raise CutShort(_CUT_SHORT) from None
        raise
    named = [span for span in spans if "schema_version" in span.found]
    thinks_still = is_unclosed(_prose(written, spans))
    if cut_off and (thinks_still or not named or not _is_blank(written[named[-1].end :])):
        raise CutShort(_CUT_SHORT)
    if thinks_still:
        raise NoJson("its thinking never ended, so it holds no answer")
    if not named:
        raise NoJson('it holds no complete JSON object with a "schema_version"')
    objects = [_plain(written, span) for span in named]
    matching = [found for found in objects if found["schema_version"] == schema_version]
    if not matching:
        check_schema(objects[-1]["schema_version"], schema_version)
    if any(found != matching[0] for found in matching):
        raise InvalidReply("it holds several JSON objects that differ; give exactly one")
    return matching[0]


def looks_like_refusal(text: str) -> bool:
    """Whether a reply without JSON opens as models do when they decline."""
    return _REFUSAL.match(after_thinking(text)[:200]) is not None


def _answer(text: str) -> tuple[str, list[_Span]]:
    """What was written after thinking, and the objects in it; raises `NoJson` as `_objects` does.

    A closing tag within an object is a word of the answer and ends no thinking: a criterion may
    demand that an answer does without one.
    """
    written = after_thinking(text)
    spans = _objects(written)
    if len(written) == len(text) or any("schema_version" in span.found for span in spans):
        return written, spans
    try:
        in_all = _objects(text)
    except NoJson:
        return written, spans
    end = len(text)
    for span in reversed(in_all):
        if (tag := text.rfind(CLOSING_TAG, span.end, end)) >= 0:
            break
        end = span.start
    else:
        tag = text.rfind(CLOSING_TAG, 0, end)
    begin = 0 if tag < 0 else tag + len(CLOSING_TAG)
    return text[begin:], [
        _Span(found, start - begin, end - begin) for found, start, end in in_all if start >= begin
    ]


def _objects(text: str) -> list[_Span]:
    """Top-level JSON objects from left to right; those nested in another are part of it.

    Raises `NoJson` for what would take long to search: an answer is found at once, or among a few
    things that look like one.
    """
    if len(text) - sum(map(text.count, " \t\r\n")) > _LONGEST_ANSWER:
        raise NoJson("it is far too long")
    spans: list[_Span] = []
    position = wasted = 0
    for _ in range(_MOST_STARTS):
        opening = _OPENING.search(text, position)
        if opening is None:
            return spans
        start = opening.start()
        try:
            found, position = _DECODER.raw_decode(text, start)
        except json.JSONDecodeError as error:
            wasted += error.pos - start
            position = start + 1
        except ValueError:  # JSON that no answer holds; where it stands is not told
            wasted += len(text) - start
            position = start + 1
        except RecursionError:
            break
        else:
            spans.append(_Span(found, start, position))
        if wasted > _MOST_WASTED:
            break
    raise NoJson("most of it looks like JSON and is none; give the one JSON object alone")


def _plain(text: str, span: _Span) -> dict[str, Any]:
    """The object of `span`, which no record and no request can choke on; raises `InvalidReply`."""
    parts = sum(text.count(sign, span.start, span.end) for sign in "{[,")
    if parts > _MOST_PARTS:
        raise InvalidReply("its JSON object has far too many parts")
    if parts > _DEEPEST and _is_deep(span.found):
        raise InvalidReply("its JSON object is nested far too deeply")
    if _SURROGATE_ESCAPE.search(text, span.start, span.end):
        return json.loads(encodable(json.dumps(span.found, ensure_ascii=False)))
    return span.found


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


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


def _whole_number(digits: str) -> int:
    if len(digits) > 18:  # more than 64 bits may hold, in the journal as in any reader of it
        raise ValueError("a number is too large")
    return int(digits)


def _number(written: str) -> float:
    number = float(written)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_without_repeats,
    parse_int=_whole_number,
    parse_float=_number,
    parse_constant=_no_number,
)
_CUT_SHORT: Final = "it was cut off at the token limit before the JSON ended"


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


def check_schema(found: object, wanted: str) -> None:
    """Raise `InvalidReply` unless a reply's `schema_version` is the wanted one."""
    if found != wanted:
        said = repr(found)
        if len(said) > _LONGEST_QUOTED:
            said = f"{said[:_LONGEST_QUOTED]}..."
        raise InvalidReply(f'"schema_version" is {said}; it must be "{wanted}"')


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
