"""Finds out before a run begins whether each role's endpoint can be used, by using it once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from algo.errors import ConfigurationError, FailureKind
from algo.llm.endpoint import Reply, Request
from algo.llm.http.wire import Fault, request_body
from algo.llm.scheduler import RequestScheduler, until_reply
from algo.llm.settings import LimitsSettings
from algo.llm.tasks import all_of
from algo.llm.trial import TRIAL, TRIAL_TOKENS, first_accepted
from algo.openai_env import ResolvedRole

PATIENCE_S: Final = 10.0
"""For the list of models."""
TRIAL_PATIENCE_S: Final = 60.0
"""For a trial with all its attempts: some servers load a model at its first request."""

_NO_SUCH_PATH: Final = ("HTTP 404", "HTTP 405", "HTTP 501")
_KEY_MARKS: Final = (
    "no connected db",
    "api key",
    "api_key",
    "apikey",
    "authent",
    "unauthori",
    "not authori",
    "virtual key",
    "invalid token",
)
"""How proxies that answer a wrong key with another status than 401 speak of it."""


async def check_judge(roles: Sequence[ResolvedRole], limits: LimitsSettings) -> None:
    """`check_roles` with a scheduler of its own."""
    async with RequestScheduler(limits) as scheduler:
        await check_roles(roles, scheduler)


async def check_roles(roles: Sequence[ResolvedRole], scheduler: RequestScheduler) -> None:
    """Ask each endpoint for its models, then for a few tokens in the way the run will ask.

    Roles that would send the same request share one. Raises `ConfigurationError` naming role, URL,
    setting and fix.
    """
    lists = await all_of(_listed_models(role, scheduler) for role in roles)
    trials: dict[Hashable, tuple[ResolvedRole, list[str]]] = {}
    for role, listed in zip(roles, lists, strict=True):
        trials.setdefault(_request(role), (role, listed))
    await all_of(_try(role, scheduler, listed) for role, listed in trials.values())


async def trial(role: ResolvedRole, scheduler: RequestScheduler, request: Request) -> Reply:
    """One reply within `TRIAL_PATIENCE_S`; raises the last `Fault`.

    An endpoint that is busy or down for the moment is asked again, one that refuses is not.
    """
    now = asyncio.get_running_loop().time
    end = now() + TRIAL_PATIENCE_S

    def send(_: int) -> Awaitable[Reply]:
        timeout_s = min(role.endpoint.settings.attempt_s, end - now())
        return scheduler.attempt(role.endpoint, request, timeout_s)

    def pause_s(attempt: int, fault: Fault) -> float:
        wait = scheduler.backoff_s(attempt - 1, fault)
        may_pass = fault.retryable and fault.endpoint_down and not fault.refuses_key
        if not may_pass or now() + wait >= end:
            raise fault
        return wait

    return await until_reply(send, pause_s)


def unusable(role: ResolvedRole, fault: Fault, listed: Sequence[str] = ()) -> ConfigurationError:
    """The error for a trial that failed; `listed` are the models that the endpoint lists."""
    if fault.refuses_key:
        return _refused_key(role, fault.message)
    if not fault.retryable:
        return _rejection(role, fault.message, listed)
    prefix = role.prefix
    key = f"; {_key_as_cause(role)}" if fault.message.startswith("HTTP 5") else ""
    return ConfigurationError(
        f"{_place(role)} ({role.base_url_from}) does not answer ({fault.message}): wait until "
        f"it does, or set {prefix}.base_url, {prefix}.api or {prefix}.timeout_s{key}"
    )


def _rejection(role: ResolvedRole, message: str, listed: Sequence[str]) -> ConfigurationError:
    endpoint, prefix = role.endpoint, role.prefix
    of_the_model = f"{prefix}.model or ROPD_{endpoint.role.upper()}_MODEL"
    fixes = list(_named_fixes(role, message.lower()))
    if any(mark in message.lower() for mark in _KEY_MARKS):
        fixes.append(_key_as_cause(role))
    if fixes:
        fix = ", ".join(fixes)
    elif endpoint.settings.api == "responses" and message.startswith(_NO_SUCH_PATH):
        fix = (
            f"set {prefix}.api=chat_completions where it serves no responses, else {of_the_model}, "
            f"or {prefix}.base_url up to and including /v1"
        )
    elif listed and endpoint.model not in listed:
        return ConfigurationError(
            f"{endpoint.base_url} does not serve the {endpoint.role}'s model {endpoint.model} "
            f"({role.model_from}; it lists {', '.join(listed[:5])}): set {of_the_model}; {message}"
        )
    elif message.startswith(_NO_SUCH_PATH):
        fix = (
            f"set {of_the_model}, {prefix}.base_url up to and including /v1, or "
            f"{prefix}.api=responses where it serves no chat completions"
        )
    else:
        fix = (
            f"see {of_the_model}, {prefix}.temperature, {prefix}.max_tokens, "
            f"{prefix}.max_tokens_key and {prefix}.extra_body; {_key_as_cause(role)}"
        )
    return ConfigurationError(
        f"{_place(role)} refuses a request such as the run sends, for model {endpoint.model} "
        f"({message}): {fix}"
    )


async def _listed_models(role: ResolvedRole, scheduler: RequestScheduler) -> list[str]:
    """What `GET {base_url}/models` lists, for a message.

    Nothing where an endpoint has no list, guards it by another key, or fails at it: whether the
    endpoint can be used, the trial tells. One that no connection leads to is told at once.
    """
    try:
        status, body = await scheduler.models(role.endpoint, PATIENCE_S)
    except Fault as fault:
        if fault.kind is FailureKind.TIMEOUT:
            return []
        raise ConfigurationError(
            f"{_place(role)} ({role.base_url_from}) cannot be reached ({fault.message}): start it, "
            f"or set {role.prefix}.base_url or OPENAI_BASE_URL to the right URL"
        ) from None
    return _model_ids(body) if status == 200 else []


async def _try(role: ResolvedRole, scheduler: RequestScheduler, listed: list[str]) -> None:
    try:
        await first_accepted(role.endpoint, lambda request: trial(role, scheduler, request))
    except Fault as fault:
        raise unusable(role, fault, listed) from None


def _request(role: ResolvedRole) -> Hashable:
    """What the trial sends and where to."""
    endpoint = role.endpoint
    sent = request_body(endpoint, replace(TRIAL, sampling={"max_tokens": TRIAL_TOKENS}))
    return endpoint.base_url, endpoint.api_key, sent


def _named_fixes(role: ResolvedRole, message: str) -> Iterator[str]:
    """What to change of the settings that a refusal names, as far as they are sent."""
    settings, prefix = role.endpoint.settings, role.prefix
    for name in ("temperature", "top_p", "seed", "reasoning_effort"):
        if name.partition("_effort")[0] in message and getattr(settings, name) is not None:
            yield f"{prefix}.{name}=null leaves {name} out"
    if any(name in message for name in ("max_tokens", "max_completion_tokens")):
        yield (
            f"{prefix}.max_tokens_key is the name under which the limit is sent "
            f"(max_tokens or max_completion_tokens), {prefix}.max_tokens its value"
        )
    if "max_output_tokens" in message:
        yield f"{prefix}.max_tokens is this limit"
    for name in settings.extra_body:
        if name.lower() in message:
            yield f"{prefix}.extra_body sends {name}"


def _place(role: ResolvedRole) -> str:
    return f"the {role.endpoint.role}'s endpoint {role.endpoint.base_url}"


def _refused_key(role: ResolvedRole, message: str) -> ConfigurationError:
    return ConfigurationError(
        f"{_place(role)} refuses the key {role.key_from} ({message}): set the right key, or name "
        f"its variable in {role.prefix}.api_key_env"
    )


def _key_as_cause(role: ResolvedRole) -> str:
    """Proxies word a wrong key as they like: LiteLLM without a database says 400, some say 500."""
    setting = f"{role.prefix}.api_key_env"
    if role.endpoint.api_key is None:
        return f"behind a proxy, a missing key may be the cause: name its variable in {setting}"
    return f"behind a proxy, the key {role.key_from} may be the wrong one ({setting})"


def _model_ids(body: bytes) -> list[str]:
    try:
        payload: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    entries = payload.get("data") if isinstance(payload, dict) else None
    if not isinstance(entries, list):
        return []
    return [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]
