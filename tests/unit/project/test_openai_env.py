"""Roles and endpoints from configuration and environment."""

from __future__ import annotations

import pickle

import pytest

from algo.errors import ConfigurationError
from algo.llm.settings import RoleSettings
from algo.openai_env import resolve_role

KEY = "sk-not-to-be-seen"
FULL = {
    "OPENAI_API_KEY": KEY,
    "OPENAI_BASE_URL": "https://env.example/v1/",
    "ROPD_VERIFIER_MODEL": "env-model",
}


def test_configuration_wins_over_the_environment_and_the_line_says_so() -> None:
    settings = RoleSettings(model="own", base_url="http://127.0.0.1:8000/v1/", api_key_env=None)
    role = resolve_role("verifier", settings, FULL)
    assert role.endpoint.model == "own"
    assert role.endpoint.base_url == "http://127.0.0.1:8000/v1"
    assert role.endpoint.api_key is None
    assert role.line() == (
        "verifier: model own (from ropd.judge.verifier.model), endpoint http://127.0.0.1:8000/v1 "
        "(from ropd.judge.verifier.base_url), key none (ropd.judge.verifier.api_key_env is null)"
    )


def test_the_environment_fills_what_the_configuration_leaves_open() -> None:
    role = resolve_role("verifier", RoleSettings(), FULL)
    assert role.endpoint.model == "env-model"
    assert role.endpoint.base_url == "https://env.example/v1"
    assert role.endpoint.api_key is not None
    assert role.endpoint.api_key.get_secret_value() == KEY
    line = role.line()
    assert "ROPD_VERIFIER_MODEL" in line
    assert "OPENAI_BASE_URL" in line
    assert "key from OPENAI_API_KEY" in line


def test_without_any_url_it_is_openais_and_the_line_says_default() -> None:
    role = resolve_role("teacher", RoleSettings(model="m"), {"OPENAI_API_KEY": KEY})
    assert role.endpoint.base_url == "https://api.openai.com/v1"
    assert "(default)" in role.line()


def test_the_key_shows_in_no_repr_and_no_line() -> None:
    role = resolve_role("verifier", RoleSettings(), FULL)
    for shown in (repr(role), str(role), role.line(), role.endpoint.name, repr(role.endpoint)):
        assert KEY not in shown
    assert pickle.loads(pickle.dumps(role)) == role


@pytest.mark.parametrize(
    ("settings", "environ", "said"),
    [
        (RoleSettings(), {}, "set ropd.judge.verifier.model or ROPD_VERIFIER_MODEL"),
        (RoleSettings(model="m"), {}, "OPENAI_API_KEY is not set"),
        (RoleSettings(model="m"), {"OPENAI_API_KEY": " "}, "OPENAI_API_KEY is not set"),
        (RoleSettings(model="m", api_key_env="K"), {"K": ""}, "K is not set"),
        (RoleSettings(model="m"), {"OPENAI_API_KEY": f"{KEY}\nx"}, "OPENAI_API_KEY holds"),
        (RoleSettings(model="m"), {"OPENAI_API_KEY": f"{KEY}\u201d"}, "copy the key again"),
        (RoleSettings(model="m", base_url="host:8000"), FULL, "is not an http(s) URL"),
        (RoleSettings(model="m", base_url="http://u:p@h/v1"), FULL, "neither credentials"),
        (RoleSettings(model="m", base_url="http://h/v1?key=x"), FULL, "neither credentials"),
    ],
)
def test_what_cannot_be_resolved_names_setting_and_fix(
    settings: RoleSettings, environ: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        resolve_role("verifier", settings, environ)
    assert said in str(error.value)
    assert "u:p" not in str(error.value)
    assert KEY not in str(error.value)
