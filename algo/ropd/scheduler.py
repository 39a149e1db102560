"""The request engine: one retry loop over one limiter, for every LLM role of a process.

`RequestScheduler.complete` returns one complete reply, or raises

- `JudgeFailure` when this request cannot be answered: its retries by kind are used up, its
  deadline passed, or the endpoint rejects the request as such (`RequestRejected`);
- `JudgeOutage` when the endpoint is down for longer than the allowed outage: then every request
  that waits, and every later one, gets it too.

An endpoint that is down makes requests wait, it does not fail them. What a reply says is not read
here: refusals, cut-off and garbled replies are `client.py`'s part.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Self

from algo.ropd.admission import Admission, Deadline, Permit
from algo.ropd.breaker import backoff_s
from algo.ropd.endpoint import Endpoint, Reply
from algo.ropd.errors import FailureKind, JudgeFailure, JudgeOutage, RequestRejected
from algo.ropd.hedging import first_reply
from algo.ropd.settings import LimitsSettings
from algo.ropd.transport import Transport
from algo.ropd.wire import Fault, Message

__all__ = ["Deadline", "Endpoint", "Reply", "RequestScheduler"]


class RequestScheduler:
    """Sends requests of any role within the limits; use `async with`, or `aclose` at the end.

    `rng` draws the jitter. One event loop uses it: the one of the first request.
    """

    def __init__(
        self, limits: LimitsSettings | None = None, *, rng: random.Random | None = None
    ) -> None:
        self.limits = limits or LimitsSettings()
        self._rng = rng or random.Random()
        self._admission = Admission(self.limits, self._rng)
        self._transport = Transport()
        self._retries: Counter[FailureKind] = Counter()
        self._hedges = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self._admission.close()
        await self._transport.aclose()

    def deadline(self, endpoint: Endpoint, seconds: float | None = None) -> Deadline:
        """`seconds` (default: `stage_deadline_s`) of the time in which the endpoint is up.

        Several requests may share one: the turns of a conversation, the calls of a stage.
        """
        lane = self._admission.lane(endpoint)
        return Deadline(lane, self.limits.stage_deadline_s if seconds is None else seconds)

    async def complete(
        self,
        endpoint: Endpoint,
        messages: Sequence[Message],
        *,
        response_format: Mapping[str, Any] | None = None,
        priority: int = 0,
        sampling: Mapping[str, Any] | None = None,
        deadline: Deadline | float | None = None,
        prompt_tokens: int | None = None,
    ) -> Reply:
        """One reply of `endpoint` to `messages`.

        Higher `priority` goes first. `sampling` overrides the role's temperature, top_p, seed,
        max_tokens and reasoning_effort. `deadline` in seconds from now, or shared through
        `self.deadline`. `prompt_tokens` is what the caller counted, for the tokens-per-minute
        limit; without it a high estimate is charged until the reply tells.
        """
        lane = self._admission.lane(endpoint)
        if not isinstance(deadline, Deadline):
            deadline = self.deadline(endpoint, deadline)
        tokens = _expected_tokens(endpoint, messages, prompt_tokens, sampling)
        charged: Counter[FailureKind] = Counter()
        fault = Fault(FailureKind.TIMEOUT, "no request could be sent")
        with self._admission.user(lane):
            attempt = 0
            while True:
                attempt += 1
                permit = await self._admission.acquire(lane, priority, tokens, deadline)
                if permit is None:
                    raise _failure(endpoint, attempt - 1, fault, "the stage's deadline passed")
                timeout_s = min(endpoint.settings.timeout_s, deadline.remaining())
                try:
                    return await self._hedged(
                        permit,
                        lambda permit, number=attempt, timeout_s=timeout_s: self._attempt(
                            endpoint,
                            permit,
                            messages,
                            response_format,
                            sampling,
                            timeout_s,
                            number,
                        ),
                        tokens,
                    )
                except Fault as failed:
                    fault = failed
                if not fault.retryable:
                    raise RequestRejected(
                        fault.kind,
                        endpoint.role,
                        fault.message,
                        endpoint.name,
                        fault.about_schema,
                    )
                self._retries[fault.kind] += 1
                if fault.endpoint_down and lane.breaker.is_open:
                    continue  # the server's failure, not the request's: wait for the server
                charged[fault.kind] += 1
                if charged[fault.kind] > self.allowed(fault.kind):
                    raise _failure(endpoint, attempt, fault, "retries used up")
                await self._back_off(charged.total() - 1, fault, deadline)

    def allowed(self, kind: FailureKind) -> int:
        """How many retries a request has for failures of `kind`."""
        return int(getattr(self.limits.retries, kind.value, 0))

    def count_retry(self, kind: FailureKind) -> None:
        """Count a retry that the caller makes because of what a reply said."""
        self._retries[kind] += 1

    def stop(self, outage: JudgeOutage) -> None:
        """End every waiting and every later request with `outage` (the quality gate closed)."""
        self._admission.stop(outage)

    @property
    def stopped(self) -> JudgeOutage | None:
        return self._admission.stopped

    async def models(self, endpoint: Endpoint, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of the endpoint's model list; raises `Fault` when nothing answers."""
        return await self._transport.models(endpoint, timeout_s)

    async def attempt(
        self,
        endpoint: Endpoint,
        messages: Sequence[Message],
        timeout_s: float,
        *,
        response_format: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> Reply:
        """One attempt outside of limits, breaker and counters; raises its `Fault`."""
        return await self._transport.send(
            endpoint,
            messages,
            response_format=response_format,
            sampling=sampling,
            timeout_s=timeout_s,
            attempt=1,
        )

    def drain_counters(self) -> dict[str, float]:
        """Retries by kind and hedges since the last call; requests waiting and in flight, and the
        peak of these; `down_s` as a total of the run."""
        counters = {
            f"retries/{kind.value}": float(self._retries[kind])
            for kind in FailureKind
            if self.allowed(kind)
        }
        counters["retries"] = float(self._retries.total())
        counters["hedges"] = float(self._hedges)
        counters["down_s"] = self._admission.down_s()
        counters["waiting"] = float(self._admission.waiting())
        counters["in_flight"] = float(self._admission.in_flight())
        counters["peak_in_flight"] = float(self._admission.peak_in_flight)
        self._retries.clear()
        self._hedges = 0
        self._admission.peak_in_flight = self._admission.in_flight()
        return counters

    async def _hedged(
        self, permit: Permit, attempt: Callable[[Permit], Coroutine[Any, Any, Reply]], tokens: int
    ) -> Reply:
        if self.limits.hedge_after_s is None:
            return await attempt(permit)

        def copy() -> Coroutine[Any, Any, Reply] | None:
            second = self._admission.acquire_now(permit.lane, tokens)
            if second is None:
                return None
            self._hedges += 1
            return attempt(second)

        return await first_reply(attempt(permit), copy, self.limits.hedge_after_s)

    async def _attempt(
        self,
        endpoint: Endpoint,
        permit: Permit,
        messages: Sequence[Message],
        response_format: Mapping[str, Any] | None,
        sampling: Mapping[str, Any] | None,
        timeout_s: float,
        attempt: int,
    ) -> Reply:
        """Send once and give the permit back with the outcome; raises `Fault`."""
        try:
            reply = await self._transport.send(
                endpoint,
                messages,
                response_format=response_format,
                sampling=sampling,
                timeout_s=timeout_s,
                attempt=attempt,
            )
        except Fault as fault:
            if fault.kind is FailureKind.TIMEOUT and timeout_s < endpoint.settings.timeout_s:
                self._admission.withdraw(permit)  # out of time, which says nothing of the server
            elif fault.endpoint_down:
                self._admission.failed(permit, fault.kind, fault.message, fault.retry_after_s)
            else:
                self._admission.replied(permit)
            raise
        except BaseException:
            self._admission.withdraw(permit)
            raise
        self._admission.replied(permit, _tokens_used(reply))
        return reply

    async def _back_off(self, failures: int, fault: Fault, deadline: Deadline) -> None:
        wait = max(backoff_s(failures, self.limits, self._rng), fault.retry_after_s or 0.0)
        await asyncio.sleep(max(0.0, min(wait, deadline.remaining())))


def _expected_tokens(
    endpoint: Endpoint,
    messages: Sequence[Message],
    prompt_tokens: int | None,
    sampling: Mapping[str, Any] | None,
) -> int:
    if prompt_tokens is None:
        prompt_tokens = sum(len(str(message["content"])) for message in messages) // 3
    return prompt_tokens + int((sampling or {}).get("max_tokens", endpoint.settings.max_tokens))


def _tokens_used(reply: Reply) -> int | None:
    if reply.prompt_tokens is None or reply.completion_tokens is None:
        return None
    return reply.prompt_tokens + reply.completion_tokens


def _failure(endpoint: Endpoint, attempts: int, fault: Fault, why: str) -> JudgeFailure:
    message = f"{why} after {attempts} attempts; last: {fault.message}"
    return JudgeFailure(fault.kind, endpoint.role, message, endpoint.name)
