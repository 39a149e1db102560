"""Bodies that are read, and replies that are written, in both styles."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from algo.llm.endpoint import Endpoint
from algo.llm.http.wire import parse_reply
from algo.llm.settings import RoleSettings
from algo.testing import Reply, Request, Usage, message_text
from algo.testing.wire import Style, reply_body


def test_text_parts_of_messages_are_joined() -> None:
    parts = [{"type": "image_url"}, {"type": "text", "text": "there"}]
    messages = [{"role": "system", "content": "hello"}, {"role": "user", "content": parts}, {}]
    assert message_text(messages) == "hello\n\nthere\n\n"


@pytest.mark.parametrize("key", ["messages", "input"])
def test_a_request_knows_its_text_and_its_last_message(key: str) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2=?"}]
    request = Request({"model": "m", key: messages})
    assert (request.text, request.question) == ("Be brief.\n\n2+2=?", "2+2=?")


def test_a_bare_input_is_a_users_message() -> None:
    assert Request({"input": "2+2=?"}).messages == [{"role": "user", "content": "2+2=?"}]


@pytest.mark.parametrize(
    ("reply", "finish_reason"),
    [
        (Reply("four"), "stop"),
        (Reply("fo", "length"), "length"),
        (Reply("f", "content_filter"), "refusal"),
        (Reply(None, refusal="I cannot."), "refusal"),
    ],
)
@pytest.mark.parametrize("style", ["chat_completions", "responses"])
def test_the_products_client_reads_every_reply(
    style: Style, reply: Reply, finish_reason: str
) -> None:
    settings: Any = {"api": style}
    endpoint = Endpoint("verifier", "m", "u", RoleSettings.model_validate(settings))
    request = Request({"model": "served", "input": "2+2=?"}, style=style)
    body = reply_body(request, [reply], Usage(10, 20, 4), 1)
    read = parse_reply(endpoint, orjson.dumps(body), 0.5, 1)
    assert (read.text, read.finish_reason) == (reply.text or reply.refusal, finish_reason)
    assert (read.prompt_tokens, read.completion_tokens, read.cached_tokens) == (10, 20, 4)
    assert read.model == "served"


@pytest.mark.parametrize("style", ["chat_completions", "responses"])
def test_an_endpoint_may_report_no_tokens(style: Style) -> None:
    request = Request({"model": "served", "input": "2+2=?"}, style=style)
    assert "usage" not in reply_body(request, [Reply("four")], None, 1)
