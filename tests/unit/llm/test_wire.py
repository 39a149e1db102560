"""Requests and replies of both API styles."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import orjson
import pytest

from algo.errors import ConfigurationError, FailureKind
from algo.llm.endpoint import Endpoint, Request
from algo.llm.http.wire import Fault, parse_reply, request_body, retry_after_s, status_fault
from algo.llm.settings import RoleSettings, validated

MESSAGES = [{"role": "user", "content": "q"}]
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {}}}


def endpoint(base_url: str = "http://h/v1", **settings: Any) -> Endpoint:
    return Endpoint("verifier", "m", base_url, RoleSettings(**settings))


def body_of(of: Endpoint, **changes: Any) -> tuple[str, dict[str, Any]]:
    path, body = request_body(of, Request(MESSAGES, **changes))
    return path, orjson.loads(body)


def test_what_is_null_is_not_sent() -> None:
    path, body = body_of(endpoint(max_tokens=10))
    assert path == "/chat/completions"
    assert body == {"model": "m", "messages": MESSAGES, "max_tokens": 10, "stream": False}


@pytest.mark.parametrize("api", ["chat_completions", "responses"])
def test_a_reply_in_one_body_is_always_asked_for(api: str) -> None:
    assert body_of(endpoint(api=api))[1]["stream"] is False
    with pytest.raises(ConfigurationError, match=r"r\.extra_body=.*stream is always false"):
        validated(RoleSettings, {"extra_body": {"stream": True}}, "r")


def test_sampling_and_extra_body_override() -> None:
    of = endpoint(temperature=0.7, seed=1, extra_body={"top_k": 20})
    _, body = body_of(of, sampling={"temperature": 1.0, "max_tokens": 5})
    assert (body["temperature"], body["max_tokens"], body["top_k"]) == (1.0, 5, 20)
    assert body["seed"] == 1


OPENAI = [
    "https://api.openai.com/v1",
    "https://eu.api.openai.com/v1",
    "https://API.OpenAI.com:443/v1",
    "https://x.openai.azure.com/openai/v1",
]
OTHERS = [
    "http://127.0.0.1:8000/v1",
    "https://openai.com.example.org/v1",
    "https://proxy.example.org/api.openai.com/v1",
    "https://notopenai.com/v1",
]


@pytest.mark.parametrize("base_url", OPENAI + OTHERS)
def test_openai_and_azure_get_the_newer_name_of_the_limit(base_url: str) -> None:
    newer, older = "max_completion_tokens", "max_tokens"
    _, body = body_of(endpoint(base_url, max_tokens=7))
    sent = {key: body[key] for key in (newer, older) if key in body}
    assert sent == {newer if base_url in OPENAI else older: 7}
    for chosen in (newer, older):
        _, body = body_of(endpoint(base_url, max_tokens=7, max_tokens_key=chosen))
        assert {key: body[key] for key in (newer, older) if key in body} == {chosen: 7}


def test_the_responses_style_says_the_same_in_its_own_words() -> None:
    of = endpoint(api="responses", max_tokens=9, reasoning_effort="low", temperature=0.0)
    path, body = body_of(of, response_format=FORMAT)
    assert path == "/responses"
    assert body["input"] == MESSAGES
    assert body["max_output_tokens"] == 9
    assert body["reasoning"] == {"effort": "low"}
    assert body["text"]["format"] == {"type": "json_schema", **FORMAT["json_schema"]}
    assert body["store"] is False


def reply_to(of: Endpoint, payload: Any) -> Any:
    return parse_reply(of, orjson.dumps(payload), 1.5, 2)


def test_a_chat_reply_is_read_with_its_usage() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    choice = {"message": {"content": "text"}, "finish_reason": "length"}
    reply = reply_to(endpoint(), {"model": "m1", "choices": [choice], "usage": usage})
    assert (reply.text, reply.finish_reason, reply.model) == ("text", "length", "m1")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == (10, 3, 4)
    assert (reply.latency_s, reply.attempts) == (1.5, 2)


@pytest.mark.parametrize("word", ["length", "max_tokens", "model_length"])
def test_a_reply_that_was_cut_off_is_known_by_any_word_for_it(word: str) -> None:
    choice = {"message": {"content": "text"}, "finish_reason": word}
    assert reply_to(endpoint(), {"choices": [choice]}).finish_reason == "length"


def test_a_paid_reply_with_a_lone_surrogate_is_read_and_can_be_sent_on() -> None:
    body = rb'{"choices": [{"message": {"content": "a\ud800b\ud83d\ude00"}}]}'
    assert parse_reply(endpoint(), body, 1.5, 1).text == "a\ufffdb\U0001f600"


def test_what_a_reply_says_of_itself_is_left_out_where_it_cannot_be() -> None:
    usage = {"prompt_tokens": -1, "completion_tokens": "3", "prompt_tokens_details": [4]}
    choice = {"message": {"content": "text"}}
    reply = reply_to(endpoint(), {"model": 5, "choices": [choice], "usage": usage})
    assert (reply.text, reply.model) == ("text", "m")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == (None,) * 3
    reply = reply_to(endpoint(), {"model": "m" * 10_000, "choices": [choice], "usage": "none"})
    assert len(reply.model) == 100


@pytest.mark.parametrize(
    "changes",
    [
        {"finish_reason": 1.5},
        {"message": {"content": {"text": "a"}}},
        {"message": {"content": ["a"]}},
        {"message": {"content": [{"type": "text", "text": None}]}},
        {"message": {"content": "a", "refusal": {"reason": "no"}}},
        {"message": "text"},
    ],
)
def test_a_reply_whose_words_have_another_type_is_none(changes: dict[str, Any]) -> None:
    choice = {"message": {"content": "text"}, "finish_reason": "stop", **changes}
    with pytest.raises(Fault, match="HTTP 200 whose body is not a chat_completions reply") as fault:
        reply_to(endpoint(), {"choices": [choice]})
    assert not fault.value.endpoint_down


def test_a_refusal_without_words_is_one() -> None:
    message = {"content": "text", "refusal": True}
    assert reply_to(endpoint(), {"choices": [{"message": message}]}).finish_reason == "refusal"


@pytest.mark.parametrize("fields", [None, {}, {"refusal": None}, {"refusal": ""}, [], "x"])
def test_what_a_gateway_adds_beside_the_message_is_no_refusal(fields: Any) -> None:
    message = {"content": "text", "provider_specific_fields": fields}
    assert reply_to(endpoint(), {"choices": [{"message": message}]}).finish_reason == "stop"


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": None, "refusal": "no"}, "finish_reason": "stop"},
        {"message": {"content": ""}, "finish_reason": "content_filter"},
        # LiteLLM's way of handing a provider's refusal on.
        {"message": {"content": "", "provider_specific_fields": {"refusal": "I cannot"}}},
        {"message": {"content": "{}", "provider_specific_fields": {"refusal": True}}},
    ],
)
def test_a_refusal_has_its_own_finish_reason(choice: dict[str, Any]) -> None:
    assert reply_to(endpoint(), {"choices": [choice]}).finish_reason == "refusal"


def test_reasoning_text_never_stands_in_for_the_answer() -> None:
    message = {"content": None, "reasoning_content": "hmm", "reasoning": "hmm"}
    assert reply_to(endpoint(), {"choices": [{"message": message}]}).text == ""


@pytest.mark.parametrize(
    ("payload", "text", "finish_reason"),
    [
        ({"status": "completed"}, "ab", "stop"),
        ({"incomplete_details": {"reason": "max_output_tokens"}}, "ab", "length"),
        ({"incomplete_details": {"reason": "content_filter"}}, "ab", "refusal"),
    ],
)
def test_a_responses_reply_is_read(payload: dict[str, Any], text: str, finish_reason: str) -> None:
    content = [{"type": "output_text", "text": part} for part in ("a", "b")]
    output = [{"type": "reasoning", "summary": []}, {"type": "message", "content": content}]
    usage = {
        "input_tokens": 1,
        "output_tokens": 2,
        "input_tokens_details": {"cached_tokens": 0},
    }
    reply = reply_to(endpoint(api="responses"), {"output": output, "usage": usage, **payload})
    assert (reply.text, reply.finish_reason, reply.completion_tokens) == (text, finish_reason, 2)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"null", b'{"choices": []}', b'{"error": {"message": "no"}}'],
)
def test_a_200_without_a_reply_is_a_transport_fault(body: bytes) -> None:
    with pytest.raises(Fault) as fault:
        parse_reply(endpoint(), body, 0.0, 1)
    assert fault.value.kind is FailureKind.TRANSPORT
    assert fault.value.retryable


@pytest.mark.parametrize(
    ("status", "body", "kind", "retryable", "down"),
    [
        (429, b"", FailureKind.RATE_LIMIT, True, True),
        (408, b"", FailureKind.TIMEOUT, True, True),
        (500, b"", FailureKind.TRANSPORT, True, True),
        (503, b"", FailureKind.TRANSPORT, True, True),
        (401, b"", FailureKind.TRANSPORT, True, True),
        (405, b"no such method", FailureKind.TRANSPORT, False, False),
        (501, b"not implemented", FailureKind.TRANSPORT, False, False),
        (404, b"no such model", FailureKind.TRANSPORT, False, False),
        (302, b"", FailureKind.TRANSPORT, True, True),
        (400, b"bad temperature", FailureKind.TRANSPORT, False, False),
        (400, b"maximum context length is 10", FailureKind.CONTEXT_OVERFLOW, False, False),
        (413, b"", FailureKind.CONTEXT_OVERFLOW, False, False),
        (400, b'{"error": {"code": "content_filter"}}', FailureKind.REFUSAL, False, False),
        (400, b'{"error": {"code": "invalid_prompt"}}', FailureKind.REFUSAL, False, False),
        (400, b'"code": "content_policy_violation"', FailureKind.REFUSAL, False, False),
        (400, b"Azure's content management policy.", FailureKind.REFUSAL, False, False),
        (400, b'"code": "ResponsibleAIPolicyViolation"', FailureKind.REFUSAL, False, False),
    ],
)
def test_statuses_stand_for_faults(
    status: int, body: bytes, kind: FailureKind, retryable: bool, down: bool
) -> None:
    fault = status_fault(status, {}, body)
    assert (fault.kind, fault.retryable, fault.endpoint_down) == (kind, retryable, down)
    assert f"HTTP {status}" in fault.message


@pytest.mark.parametrize(
    ("body", "about_schema"),
    [
        (b"Invalid parameter: 'response_format' of type 'json_schema' is not supported", True),
        (b"The provided JSON schema contains features not supported by xgrammar", True),
        (b"extra fields not permitted: guided_json", True),
        (b"Structured outputs are not enabled", True),
        (b"Unsupported parameter: 'text.format'", True),
        (b"failed to parse grammar", True),
        (b"", False),
        (b"Unsupported value: 'temperature' does not support 0", False),
        (b"content_filter: response_format", False),
        (b"maximum context length exceeded by the schema", False),
    ],
)
def test_only_an_endpoint_that_names_the_schema_refuses_it(body: bytes, about_schema: bool) -> None:
    assert status_fault(400, {}, body).about_schema is about_schema


def test_retry_after_is_understood_in_every_form() -> None:
    assert retry_after_s({}) is None
    assert retry_after_s({"Retry-After": "2"}) == 2.0
    assert retry_after_s({"Retry-After": "0.5"}) == 0.5
    assert retry_after_s({"retry-after-ms": "250", "Retry-After": "9"}) == 0.25
    for nonsense in ("soon", "\u00b2", "1e5", "Mon, 99 Foo 20000 99:99:99 GMT"):
        assert retry_after_s({"Retry-After": nonsense}) is None
    for no_number in ("nan", "inf", "-inf", "9" * 400):
        assert retry_after_s({"retry-after-ms": no_number}) is None
    later = retry_after_s({"Retry-After": formatdate(time.time() + 30, usegmt=True)})
    assert later is not None
    assert 28.0 < later <= 30.0
    assert retry_after_s({"Retry-After": formatdate(0, usegmt=True)}) == 0.0
