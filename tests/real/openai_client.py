"""What OpenAI's own SDK makes of an endpoint: run by `tests.real.openai_sdk`, in another Python.

Imports nothing but the SDK. Prints a line of JSON: for each question its answer, or the name of the
exception that the SDK raised.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import openai


def main(url: str, key: str, model: str, question: str) -> None:
    client = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=30)
    stranger = client.with_options(api_key="sk-of-somebody-else")
    messages: Any = [{"role": "user", "content": question}]
    chat, responses = client.chat.completions, client.responses
    asked: dict[str, Callable[[], Any]] = {
        "sdk": lambda: openai.__version__,
        "models": lambda: sorted(each.id for each in client.models.list()),
        "chat": lambda: _chat(chat.create(model=model, messages=messages, seed=3)),
        "raw": lambda: (
            chat.with_raw_response.create(model=model, messages=messages, seed=3).status_code
        ),
        "choices": lambda: [
            each.message.content
            for each in chat.create(model=model, messages=messages, seed=3, n=2).choices
        ],
        "responses": lambda: _response(
            responses.create(model=model, input=messages, extra_body={"seed": 3})
        ),
        "text": lambda: (
            responses.create(model=model, input=question, extra_body={"seed": 3}).output_text
        ),
        "wrong_key": lambda: stranger.chat.completions.create(model=model, messages=messages),
        "wrong_key_models": lambda: list(stranger.models.list()),
        "unknown_model": lambda: chat.create(model="no-such-model", messages=messages),
        "no_messages": lambda: chat.create(model=model, messages=[]),
        **{
            kind: lambda kind=kind: _chat(chat.create(model=f"faulty-{kind}", messages=messages))
            for kind in sys.argv[5:]
        },
    }
    print(json.dumps({name: _answered(ask) for name, ask in asked.items()}))


def _chat(reply: Any) -> dict[str, Any]:
    (choice,) = reply.choices
    return {
        "text": choice.message.content,
        "refusal": choice.message.refusal,
        "finish_reason": choice.finish_reason,
        "tokens": reply.usage.total_tokens
        == reply.usage.prompt_tokens + reply.usage.completion_tokens,
    }


def _response(reply: Any) -> dict[str, Any]:
    return {
        "text": reply.output_text,
        "status": reply.status,
        "tokens": reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens,
    }


def _answered(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except openai.APIError as error:
        return type(error).__name__


if __name__ == "__main__":
    main(*sys.argv[1:5])
