"""Replies that went wrong in any way: structures, numbers, texts and bytes no server should send.

Drawn from a seeded `random.Random`, which is quick enough for tens of thousands of cases.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from algo.llm.endpoint import Endpoint
from algo.llm.settings import RoleSettings

RUBRIC: dict[str, Any] = {
    "schema_version": "ropd.rubric.v1",
    "rubrics": [
        {
            "criterion_id": f"c{k}",
            "category": "Task Completion",
            "criterion": f"part {k}",
            "points": k,
        }
        for k in range(1, 5)
    ],
    "maximum_score": 10,
}
CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "", "refusal": None},
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 4},
    },
}
RESPONSES: dict[str, Any] = {
    "id": "resp_1",
    "model": "m",
    "incomplete_details": None,
    "output": [
        {"type": "reasoning", "summary": []},
        {"type": "message", "content": [{"type": "output_text", "text": ""}]},
    ],
    "usage": {
        "input_tokens": 10,
        "output_tokens": 3,
        "input_tokens_details": {"cached_tokens": 4},
    },
}
ENDPOINTS = {
    api: Endpoint("rubricator", "m", "http://h/v1", RoleSettings(api=api))
    for api in ("chat_completions", "responses")
}


@dataclass(frozen=True)
class Raw:
    """JSON, or nearly, as it is to be written."""

    text: str


ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 1.5, -0.0, 2**63, 10**30, -(10**30)),
    *map(
        Raw, ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 5_000, "1E400", "-", "'a'")
    ),
    *("", "a", "stop", "length", "content_filter", "text", "message", "refusal", "\0", "\x1b[2J"),
    *("\ud800", "a\udfffb", "\U0001f600", "\u2028", "<|im_end|>", "<think>", "</think>", "{", "}"),
    *("x" * 2_500, "\ud800" * 700, "sorry", '{"schema_version": "ropd.rubric.v1"}'),
    *([], {}, [[]], [None], [1], [{}], {"": {}}, {"type": "text"}, {"type": "output_text"}),
    *({"type": "refusal", "refusal": "no"}, {"reason": "max_output_tokens"}, ["text", {"text": 1}]),
    Raw('{"a": 1, "a": 2}'),
    Raw('{"a":' * 1_100 + "1" + "}" * 1_100),
    Raw("[" * 1_100 + "]" * 1_100),
    Raw('{"k":[' * 700),
    Raw("[" * 100 + "]" * 100),
    Raw('"\\ud800\\u0000"'),
]


def written(value: Any) -> str:
    """`value` as JSON, `Raw` parts as they are."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)}: {written(entry)}" for key, entry in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    return json.dumps(value)


def mutated(value: Any, drawn: random.Random, times: int) -> Any:
    """A copy of `value` with `times` of its nodes replaced, left out, doubled or moved."""
    holder = [copy.deepcopy(value)]
    for _ in range(times):
        parent, key = drawn.choice(list(_places(holder)))
        match drawn.randrange(6):
            case 0 if parent is not holder:
                del parent[key]
            case 1:
                parent[key] = [parent[key]] * drawn.choice((1, 2, 300))
            case 2:
                parent[key] = {drawn.choice(("text", "content", "a")): parent[key]}
            case 3:
                other, place = drawn.choice(list(_places(holder)))
                parent[key] = copy.deepcopy(other[place])
            case _:
                parent[key] = copy.deepcopy(drawn.choice(ODD))
    return holder[0]


def odd_body(drawn: random.Random, api: str) -> bytes:
    """A body whose envelope or whose answer is odd, or both."""
    answer = written(mutated(RUBRIC, drawn, drawn.choice((0, 0, 1, 2))))
    if drawn.random() < 0.2:
        answer = odd_text(drawn, answer)
    body = copy.deepcopy(CHAT if api == "chat_completions" else RESPONSES)
    if api == "chat_completions":
        body["choices"][0]["message"]["content"] = answer
    else:
        body["output"][1]["content"][0]["text"] = answer
    return written(mutated(body, drawn, drawn.choice((0, 1, 1, 2, 3)))).encode("utf-8", "replace")


def odd_bytes(drawn: random.Random, body: bytes) -> bytes:
    """`body` with some bytes changed, cut, inserted or doubled."""
    data = bytearray(body)
    for _ in range(drawn.randint(1, 4)):
        place = drawn.randrange(len(data) + 1)
        end = min(len(data), place + drawn.choice((1, 1, 2, 8, 64)))
        match drawn.randrange(5):
            case 0:
                del data[place:end]
            case 1:
                data[place:end] = drawn.randbytes(end - place)
            case 2:
                data[place:place] = data[place:end]
            case 3:
                data[place:place] = drawn.choice(_PIECES).encode("utf-8", "surrogatepass")
            case _:
                del data[end:]
    return bytes(data)


_PIECES = [
    *'{}[]",:\\ \n`<>',
    *('{"', '"}', '{"k":[', '\\"', "```json\n", "<think>", "</think>", '{"schema_version":'),
    *('"ropd.rubric.v1"', "\ud800", "\\ud800", "NaN", "1e999", "null", "\u00e9", "\ufeff", "\0"),
]


def odd_text(drawn: random.Random, answer: str) -> str:
    """Pieces of JSON, prose and tags, with `answer` among them at times."""
    pieces = [*_PIECES, answer, answer[: len(answer) // 2]]
    return "".join(drawn.choices(pieces, k=drawn.randint(0, 30)))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in `value`."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])
