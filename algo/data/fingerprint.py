"""What a prompt is found by: one hash of its chat messages, wherever they come from. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from algo.errors import TeacherIndexError


def prompt_fingerprint(messages: object) -> str:
    """SHA-256 (hex) of the canonical JSON of chat messages, or of a bare prompt string.

    Equal for the same messages wherever they come from: numpy arrays and scalars, Arrow scalars
    and tuples become plain values first, and a key whose value is null counts as absent (Arrow
    adds such keys when messages of one column differ). For plain messages this is the official
    `raw_prompt_hash`. Raises `TeacherIndexError` for content that is not text (images, bytes).
    """
    canonical = json.dumps(_plain(messages), ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if type(value) in (int, float):
        return value
    for unwrap in ("tolist", "as_py"):
        if hasattr(value, unwrap) and (plain := getattr(value, unwrap)()) is not value:
            return _plain(plain)
    raise TeacherIndexError(
        f"a prompt holds a {type(value).__name__}, which has no fingerprint: the teacher index "
        "covers text prompts (strings, numbers, lists and mappings of them)"
    )
