"""Resolves each LLM role to an `Endpoint`: configuration first, then the environment.

    model     ropd.judge.<role>.model     | ROPD_<ROLE>_MODEL
    base URL  ropd.judge.<role>.base_url  | OPENAI_BASE_URL | https://api.openai.com/v1
    key       the variable that ropd.judge.<role>.api_key_env names

`configs/judge/local_vllm.yaml` reads ROPD_VLLM_MODEL and ROPD_VLLM_BASE_URL by interpolation, so
for this module they are configuration. Reads the mapping it is given and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from algo.errors import ConfigurationError
from algo.llm.endpoint import Endpoint
from algo.llm.settings import RoleSettings

OPENAI_BASE_URL: Final = "https://api.openai.com/v1"


@dataclass(frozen=True)
class ResolvedRole:
    """An endpoint and where each of its values came from."""

    endpoint: Endpoint
    prefix: str
    """How the role's settings are called, such as `ropd.judge.verifier`."""
    model_from: str
    base_url_from: str
    key_from: str

    def line(self) -> str:
        """One line for the log; holds the key's variable, never the key."""
        return (
            f"{self.endpoint.role}: model {self.endpoint.model} ({self.model_from}), "
            f"endpoint {self.endpoint.base_url} ({self.base_url_from}), key {self.key_from}"
        )


def resolve_roles(
    roles: Mapping[str, RoleSettings], environ: Mapping[str, str]
) -> list[ResolvedRole]:
    """Every role that a method asks, in its order; raises as `resolve_role` does."""
    return [resolve_role(role, settings, environ) for role, settings in roles.items()]


def resolve_role(
    role: str, settings: RoleSettings, environ: Mapping[str, str], prefix: str | None = None
) -> ResolvedRole:
    """Resolve `role` (`rubricator`, `verifier` or `teacher`).

    `prefix` is how its settings are called in messages, `ropd.judge.<role>` by default. Raises
    `ConfigurationError` when the model or a named key is nowhere to be found, or when the base URL
    is none.
    """
    prefix = prefix or f"ropd.judge.{role}"
    model, model_from = _model(role, settings, environ, prefix)
    base_url, base_url_from = _base_url(settings, environ, prefix)
    key, key_from = _key(settings, environ, prefix, base_url)
    endpoint = Endpoint(role, model, base_url, settings, key)
    return ResolvedRole(endpoint, prefix, model_from, base_url_from, key_from)


def _model(
    role: str, settings: RoleSettings, environ: Mapping[str, str], prefix: str
) -> tuple[str, str]:
    variable = f"ROPD_{role.upper()}_MODEL"
    if settings.model:
        return settings.model, f"from {prefix}.model"
    if environ.get(variable):
        return environ[variable], f"from {variable}"
    raise ConfigurationError(f"the {role} has no model: set {prefix}.model or {variable}")


def _base_url(settings: RoleSettings, environ: Mapping[str, str], prefix: str) -> tuple[str, str]:
    if settings.base_url:
        url, source = settings.base_url, f"{prefix}.base_url"
    elif environ.get("OPENAI_BASE_URL"):
        url, source = environ["OPENAI_BASE_URL"], "OPENAI_BASE_URL"
    else:
        return OPENAI_BASE_URL, "default"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            f"{source}={url!r} is not an http(s) URL such as http://host:8000/v1"
        )
    if parts.username or parts.password or parts.query:
        raise ConfigurationError(
            f"{source} must hold neither credentials nor a query: name a key variable in "
            f"{prefix}.api_key_env instead"
        )
    return url.rstrip("/"), f"from {source}"


def _key(
    settings: RoleSettings, environ: Mapping[str, str], prefix: str, base_url: str
) -> tuple[SecretStr | None, str]:
    variable = settings.api_key_env
    if variable is None:
        return None, f"none ({prefix}.api_key_env is null)"
    key = environ.get(variable, "").strip()
    if not key:
        raise ConfigurationError(
            f"{variable} is not set, and {prefix}.api_key_env names it as the key for {base_url}: "
            f"set it, or set {prefix}.api_key_env=null for an endpoint that asks for no key"
        )
    if not (key.isascii() and key.isprintable()):
        # An HTTP library would say so too, and quote the key.
        raise ConfigurationError(
            f"{variable} holds characters that no key has, such as a line break or a curly quote: "
            "copy the key again"
        )
    return SecretStr(key), f"from {variable}"
