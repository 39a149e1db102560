"""The OpenAI API on the wire, from the server's side: bodies in, replies out. Pure functions.

Knows chat completions and responses. Sending and counting are `server`'s part.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

Style = Literal["chat_completions", "responses"]

_CHARACTERS_PER_TOKEN = 4


class _Body(BaseModel):
    """The fields of a request that the server heeds; others reach the functions alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    seed: int | None = None
    stream: bool = False


class ChatBody(_Body):
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    n: int = Field(default=1, ge=1, le=64)


class ResponsesBody(_Body):
    input: Annotated[list[dict[str, Any]], Field(min_length=1)] | str


@dataclass(frozen=True)
class Request:
    """One request, as the functions see it that answer, delay or break it."""

    body: Mapping[str, Any]
    """What was sent, whole."""
    role: str = ""
    """What `FakeOpenAI.role_of` says of it: the model's name, unless told otherwise."""
    number: int = 0
    """How many requests of its role came before it."""
    before: int = 0
    """How many requests with the same last message came before it."""
    choice: int = 0
    """Which of its `n` choices is asked for, from 0."""
    style: Style = field(default="chat_completions", kw_only=True)

    @cached_property
    def messages(self) -> list[dict[str, Any]]:
        return messages_of(self.body)

    @cached_property
    def text(self) -> str:
        """The text of all messages."""
        return message_text(self.messages)

    @cached_property
    def question(self) -> str:
        """The text of the last message."""
        return message_text(self.messages[-1:])


class Reply(NamedTuple):
    """One choice; a refusal has no text."""

    text: str | None
    finish_reason: str = "stop"
    refusal: str | None = None


class Usage(NamedTuple):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a body in either style; the responses style may send a bare text."""
    messages = body["messages"] if "messages" in body else body["input"]
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def message_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of all messages, in order; content parts other than text are skipped."""
    return "\n\n".join(_content(message.get("content")) for message in messages)


def _content(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    return "\n".join(str(part.get("text", "")) for part in parts)


def estimated_usage(request: Request, replies: Sequence[Reply]) -> Usage:
    written = sum(len(reply.text or "") for reply in replies)
    return Usage(len(request.text) // _CHARACTERS_PER_TOKEN, written // _CHARACTERS_PER_TOKEN)


def reply_body(
    request: Request, replies: Sequence[Reply], usage: Usage | None, number: int
) -> dict[str, Any]:
    """The body of a 200, in the request's style; `number` makes its id."""
    if request.style == "responses":
        return _response(request, replies[0], usage, number)
    body: dict[str, Any] = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.body["model"],
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": each.text, "refusal": each.refusal},
                "finish_reason": each.finish_reason,
            }
            for index, each in enumerate(replies)
        ],
    }
    if usage is not None:
        body["usage"] = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        }
    return body


def _response(request: Request, reply: Reply, usage: Usage | None, number: int) -> dict[str, Any]:
    content: dict[str, Any] = (
        {"type": "output_text", "text": reply.text, "annotations": []}
        if reply.refusal is None
        else {"type": "refusal", "refusal": reply.refusal}
    )
    reason = {"length": "max_output_tokens"}.get(reply.finish_reason, reply.finish_reason)
    whole = reply.finish_reason == "stop"
    body: dict[str, Any] = {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": int(time.time()),
        "model": request.body["model"],
        "status": "completed" if whole else "incomplete",
        "incomplete_details": None if whole else {"reason": reason},
        "output": [
            {"id": f"msg_{number}", "type": "message", "role": "assistant", "content": [content]}
        ],
    }
    if usage is not None:
        body["usage"] = {
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        }
    return body


def error_body(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": code or status}
    return {"error": error}
