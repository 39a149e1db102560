"""Serves a model directory behind the OpenAI API for as long as a context lasts.

By vLLM where it is installed and sees a GPU, else by plain transformers (`cpu/serve.py`).
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

from algo.child_server import child_server
from ropd_verl.checks.nvidia import installed, visible

_HOST: Final = "127.0.0.1"
_HEALTH_LIMIT_S: Final = 5.0
START_LIMIT_S: Final = 1800.0
"""vLLM reads the weights, profiles memory and captures graphs before it answers."""
# vLLM knows no parent: the kernel ends it, should this process be killed (PR_SET_PDEATHSIG).
_ENDS_WITH_PARENT: Final = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"
)


@contextmanager
def served(model: Path, name: str, log: Path) -> Iterator[str]:
    """Serve `model` as `name`, and yield the base URL; what the server says goes to `log`.

    Raises `RopdError` when it does not start within `START_LIMIT_S`.
    """
    port = _free_port()
    url = f"http://{_HOST}:{port}"

    def ready() -> str | None:
        try:
            with urlopen(f"{url}/health", timeout=_HEALTH_LIMIT_S):
                return f"{url}/v1"
        except (URLError, OSError):
            return None

    command = server_command(model, name, port, vllm=_has_vllm())
    with child_server(f"the server of {model}", command, os.environ, log, ready, START_LIMIT_S):
        yield f"{url}/v1"


def server_command(model: Path, name: str, port: int, *, vllm: bool) -> list[str]:
    """What serves `model` on a loopback port."""
    if vllm:
        wanted = [str(model), "--served-model-name", name, "--host", _HOST, "--port", str(port)]
        return [sys.executable, "-c", _ENDS_WITH_PARENT, "vllm", "serve", *wanted]
    wanted = [str(model), "--name", name, "--port", str(port), "--parent-pid", str(os.getpid())]
    return [sys.executable, "-m", "ropd_verl.cpu.serve", *wanted]


def _has_vllm() -> bool:
    seen = visible(installed(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return find_spec("vllm") is not None and bool(seen.gpus or seen.in_parts)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return probe.getsockname()[1]
