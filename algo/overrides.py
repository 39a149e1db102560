"""`key=value` words of a command line: read to a nested mapping, and written back. Pure.

A dotted key names a value in nested mappings. `true`, `null` and numbers are what YAML takes them
for, and so is a value that begins with a bracket, a brace or a quote. Any other value is text, kept
to the letter: a `#` or a `: ` in a system message is no YAML. What the keys mean, and whether they
exist, is for the settings that are made from the mapping.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from algo.errors import ConfigurationError

_YAML_BEGINS = ("[", "{", '"', "'")


def read_overrides(words: Iterable[str]) -> dict[str, Any]:
    """The mapping that `words` describe; of two values for a key the later one holds.

    Raises `ConfigurationError` for a word that is no `key=value`, or whose value is broken YAML.
    """
    node: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        *outer, last = key.split(".")
        if not sign or not all((*outer, last)):
            raise ConfigurationError(f"{word!r} is no setting: write key=value, such as seed=0")
        inner = node
        for name in outer:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ConfigurationError(f"{key}: {name} has a value already; leave out one")
        inner[last] = _value(key, text)
    return node


def override(key: str, value: Any) -> str:
    """The word that `read_overrides` reads as `value`, which is text or made of JSON's types."""
    if isinstance(value, str) and _is_itself(value):
        return f"{key}={value}"
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _is_itself(text: str) -> bool:
    return not text.startswith(_YAML_BEGINS) and _value("", text) == text


def _value(key: str, text: str) -> Any:
    try:
        value = _yaml(text)
    except (YAMLError, OmegaConfBaseException):
        if text.startswith(_YAML_BEGINS):
            raise ConfigurationError(
                f"{key}: {text!r} begins as YAML and is none: put it in quotes"
            ) from None
        return text
    if text.startswith(_YAML_BEGINS):
        return value
    is_plain = text != "" and (value is None or isinstance(value, bool | int | float))
    return value if is_plain else text


def _yaml(text: str) -> Any:
    node = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    assert isinstance(node, dict)
    return node["value"]
