"""Finds out in a few seconds, before a run begins, whether an endpoint can be used at all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import orjson

from algo.openai_env import ResolvedRole, resolve_role
from algo.ropd.client import all_of
from algo.ropd.errors import ConfigurationError, JudgeFailure, JudgeOutage
from algo.ropd.scheduler import RequestScheduler
from algo.ropd.settings import JudgeSettings
from algo.ropd.wire import Fault, excerpt

PATIENCE_S: Final = 10.0


async def check_judge(settings: JudgeSettings, environ: Mapping[str, str]) -> list[str]:
    """Reach both roles' endpoints; returns one line a role that says where its values came from.

    Raises `ConfigurationError`. Opens neither teacher index nor journal.
    """
    roles = [
        resolve_role("rubricator", settings.rubricator, environ),
        resolve_role("verifier", settings.verifier, environ),
    ]
    async with RequestScheduler(settings.limits) as scheduler:
        await all_of(check_endpoint(role, scheduler) for role in roles)
    return [role.line() for role in roles]


async def check_endpoint(role: ResolvedRole, scheduler: RequestScheduler) -> None:
    """Ask `GET {base_url}/models`; raises `ConfigurationError` naming role, URL, setting and fix.

    An endpoint without a model list (404) passes. One whose list lacks the model is asked for one
    token, since some serve more than they list.
    """
    endpoint = role.endpoint
    place = f"the {endpoint.role}'s endpoint {endpoint.base_url}"
    try:
        status, body = await scheduler.models(endpoint, PATIENCE_S)
    except Fault as fault:
        raise ConfigurationError(
            f"{place} ({role.base_url_from}) cannot be reached ({fault.message}): start it, or set "
            f"{role.prefix}.base_url or OPENAI_BASE_URL to the right URL"
        ) from None
    if status in (401, 403):
        raise ConfigurationError(
            f"{place} refuses the key {role.key_from} (HTTP {status}): set the right key, or name "
            f"its variable in {role.prefix}.api_key_env"
        )
    if status >= 500:
        raise ConfigurationError(f"{place} is not ready (HTTP {status}: {excerpt(body)}): start it")
    listed = _listed_models(body) if status == 200 else []
    if listed and endpoint.model not in listed:
        await _try_model(role, scheduler, listed)


async def _try_model(role: ResolvedRole, scheduler: RequestScheduler, listed: list[str]) -> None:
    endpoint = role.endpoint
    try:
        async with asyncio.timeout(PATIENCE_S):
            await scheduler.complete(
                endpoint,
                [{"role": "user", "content": "Answer with the word yes."}],
                sampling={"max_tokens": 16},
            )
    except (JudgeFailure, JudgeOutage, TimeoutError) as failure:
        raise ConfigurationError(
            f"{endpoint.base_url} does not serve the {endpoint.role}'s model {endpoint.model} "
            f"({role.model_from}; it lists {', '.join(listed[:5])}): set {role.prefix}.model or "
            f"ROPD_{endpoint.role.upper()}_MODEL; {failure or 'it does not answer'}"
        ) from None


def _listed_models(body: bytes) -> list[str]:
    try:
        payload: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    entries = payload.get("data") if isinstance(payload, dict) else None
    if not isinstance(entries, list):
        return []
    return [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]
