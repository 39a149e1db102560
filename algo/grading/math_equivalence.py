"""Whether a mathematical answer equals the ground truth, decided by math-verify within a time.

math-verify evaluates what it reads: ``2^{2024^{2024}}`` keeps it busy for ever, and its own time
limit is a signal that works in a main thread only. So one child process does the comparing, in its
main thread and with a memory limit; the caller waits for `LIMIT_S` and then starts a fresh one. The
child ends with its parent, when its standard input closes.

The same file is the child's program; it imports nothing of this project.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import select
import subprocess
import sys
import threading
from importlib.util import find_spec
from typing import IO

LIMIT_S = 20.0
"""Longest wait for one comparison; what takes longer counts as not equal."""
# sympy alone takes seconds to import, on a busy machine many.
_START_LIMIT_S = 120.0
# Parsing and comparing get so long each, so that the child mostly answers before `LIMIT_S` ends it.
_STEP_LIMIT_S = 4
# A power tower is evaluated until this is used up, not until the machine is.
_MEMORY_BYTES = 4 << 30


class _Child:
    """The process that compares, started when first needed, one question at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = -1

    def equivalent(self, text: str, truth: str) -> bool:
        with self._lock:
            process = self._running()
            question = json.dumps([text, truth]).encode() + b"\n"
            answer = _exchange(process, question, LIMIT_S)
            if answer is None:
                self._stop()
                return False
            return answer == b"1\n"

    def _running(self) -> subprocess.Popen[bytes]:
        # After a fork the process belongs to the parent, whose pipes must not be shared.
        if self._process is None or self._process.poll() is not None or self._owner != os.getpid():
            self._process, self._owner = _start(), os.getpid()
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def equivalent(text: str, truth: str) -> bool:
    """Whether the final answer stated in `text` equals `truth` (LaTeX or plain) mathematically.

    Raises `ConfigurationError` when math-verify is not installed.
    """
    return _CHILD.equivalent(text, truth)


_CHILD = _Child()


def _start() -> subprocess.Popen[bytes]:
    from algo.errors import ConfigurationError

    if find_spec("math_verify") is None:
        raise ConfigurationError(
            "grading mathematical answers needs math-verify: install the extra `math` "
            "(pip install 'ropd[math]'), or leave out the rows of this data_source"
        )
    process = subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a terminal's interrupt is for the parent
    )
    if _exchange(process, b"", _START_LIMIT_S) != b"ready\n":
        process.kill()
        process.wait()
        raise ConfigurationError(
            f"the math-verify process did not start within {_START_LIMIT_S:.0f} s: run "
            "`python -c 'import math_verify'` to see why"
        )
    return process


def _exchange(process: subprocess.Popen[bytes], question: bytes, limit_s: float) -> bytes | None:
    """Send one line and read one; None when the child died or took longer than `limit_s`."""
    stdin, stdout = _pipe(process.stdin), _pipe(process.stdout)
    try:
        stdin.write(question)
        stdin.flush()
    except BrokenPipeError:
        return None
    readable, _, _ = select.select([stdout], [], [], limit_s)
    return (stdout.readline() or None) if readable else None


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _serve() -> None:
    from math_verify import parse, verify

    if sys.platform == "linux":  # elsewhere this limit is not kept, or cannot be set
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    logging.disable(logging.CRITICAL)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        text, truth = json.loads(line)
        try:
            expected = parse(f"\\boxed{{{truth}}}", parsing_timeout=_STEP_LIMIT_S)
            stated = parse(text, parsing_timeout=_STEP_LIMIT_S)
            equal = verify(expected, stated, timeout_seconds=_STEP_LIMIT_S)
        except (MemoryError, RecursionError):
            equal = False
        sys.stdout.write("1\n" if equal else "0\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
