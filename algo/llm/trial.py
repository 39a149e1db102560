"""The trial request: the smallest one that every endpoint of a role must be able to answer.

The preflight sends it before a run begins. During the run it tells a server that is down from a
prompt that a server fails at: what it gets is never the prompt's fault.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from algo.llm.endpoint import Endpoint, Reply, Request
from algo.llm.http.wire import Fault

TRIAL: Final = Request([{"role": "user", "content": "Answer with the word yes."}])
TRIAL_TOKENS: Final = 16
"""What the answer says does not matter; OpenAI's `responses` takes no smaller limit."""


def small_trial(endpoint: Endpoint) -> Request:
    own = endpoint.settings.max_tokens
    return replace(TRIAL, sampling={"max_tokens": min(TRIAL_TOKENS, own)})


async def first_accepted(endpoint: Endpoint, send: Callable[[Request], Awaitable[Reply]]) -> Reply:
    """The reply to the trial request; raises the `Fault` that it met."""
    try:
        return await send(small_trial(endpoint))
    except Fault as fault:
        # Some reasoning models refuse a limit too small to think in: the run's own decides.
        if fault.retryable or "token" not in fault.message.lower():
            raise
        return await send(TRIAL)


def says_nothing(reply: Reply) -> bool:
    """Whether a reply ended by itself without a text, as some gateways answer for a server that
    is away; one that was cut off was thinking."""
    return reply.finish_reason == "stop" and not reply.text.strip()
