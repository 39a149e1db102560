"""Waits until a judge server answers, and checks that it keeps to a JSON schema.

Used by launch_judge_vllm.sh with whatever Python vLLM's environment has: standard library only.
Exit code 0: the server is healthy, serves the model, and its reply to one schema-bound request is
JSON of that schema. Exit code 1: one line on stderr names what is wrong and the fix. The key is
read from VLLM_API_KEY.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

REQUEST_TIMEOUT_S = 120.0
POLL_S = 1.0

SCHEMA = {
    "type": "object",
    "properties": {"judgement": {"type": "array", "items": {"type": "boolean"}, "minItems": 1}},
    "required": ["judgement"],
    "additionalProperties": False,
}


class NotReady(Exception):
    """One line: what is wrong, and the fix."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base_url", help="up to and including /v1")
    parser.add_argument("model")
    parser.add_argument("--server-pid", type=int, required=True)
    parser.add_argument("--timeout", type=float, required=True, help="seconds until healthy")
    arguments = parser.parse_args()
    try:
        wait_until_healthy(arguments.base_url, arguments.server_pid, arguments.timeout)
        check_model(arguments.base_url, arguments.model)
        check_structured_output(arguments.base_url, arguments.model)
    except NotReady as error:
        sys.exit(f"ropd: error: {error}")


def wait_until_healthy(base_url: str, server_pid: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not _is_alive(server_pid):
            raise NotReady("vLLM ended while starting: its own messages above say why")
        if _is_healthy(base_url.removesuffix("/v1") + "/health"):
            return
        time.sleep(POLL_S)
    raise NotReady(
        f"no answer from {base_url} within {timeout_s:g} s: raise ROPD_JUDGE_STARTUP_TIMEOUT_S"
    )


def check_model(base_url: str, model: str) -> None:
    served = [entry["id"] for entry in _call(f"{base_url}/models")["data"]]
    if model not in served:
        raise NotReady(f"{base_url} serves {served}, not {model!r}: another server has this port")


def check_structured_output(base_url: str, model: str) -> None:
    request = {
        "model": model,
        "messages": [{"role": "user", "content": "Is 2 + 2 = 4? Judge it once, as JSON."}],
        "max_tokens": 2048,
        "temperature": 0,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True},
        },
    }
    content = _call(f"{base_url}/chat/completions", request)["choices"][0]["message"]["content"]
    try:
        judgement = json.loads(content or "")["judgement"]
    except (ValueError, KeyError, TypeError):
        judgement = None
    if not isinstance(judgement, list) or not all(isinstance(item, bool) for item in judgement):
        raise NotReady(
            f"{model} did not keep to a JSON schema, it replied {content!r}: for a thinking model"
            " pass its --reasoning-parser, so that thinking stays out of the reply"
        )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _is_healthy(url: str) -> bool:
    try:
        with urlopen(url, timeout=5.0):
            return True
    except (OSError, HTTPException):
        return False


def _call(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("VLLM_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(url, data, headers), timeout=REQUEST_TIMEOUT_S) as reply:
            return json.load(reply)
    except HTTPError as error:
        detail = error.read(500).decode(errors="replace")
        raise NotReady(f"{url} answered {error.code}: {detail}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise NotReady(f"{url} gave no usable reply: {error}") from None


if __name__ == "__main__":
    main()
