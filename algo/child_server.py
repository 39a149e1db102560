"""A server as a child process, for as long as a context lasts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from algo.errors import RopdError

STOP_LIMIT_S = 10.0
_POLL_S = 0.05

Found = TypeVar("Found")


@contextmanager
def child_server(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    ready: Callable[[], Found | None],
    start_limit_s: float,
) -> Iterator[Found]:
    """Start `command`, and yield what `ready` finds once it finds something.

    The child has a process session of its own: Ctrl-C reaches the parent alone, which may still
    need it to end well. Its output is appended to `log`. It ends with the context. Raises
    `RopdError`, which says where the log is, when it ends or is not ready within `start_limit_s`.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield _await(name, process, ready, start_limit_s, log)
        finally:
            _stop(process)


def _await(
    name: str,
    process: subprocess.Popen[bytes],
    ready: Callable[[], Found | None],
    limit_s: float,
    log: Path,
) -> Found:
    deadline = time.monotonic() + limit_s
    while (found := ready()) is None:
        if process.poll() is not None:
            raise RopdError(f"{name} exited with code {process.returncode}: see {log}")
        if time.monotonic() > deadline:
            raise RopdError(f"{name} took over {limit_s:g} s to start: see {log}")
        time.sleep(_POLL_S)
    return found


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_LIMIT_S)
