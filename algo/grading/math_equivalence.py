"""What a mathematical text states as its answer, and whether that equals the ground truth.

Decided by math-verify, within a time.

math-verify evaluates what it reads: ``2^{2024^{2024}}`` keeps it busy for ever, and its own time
limit is a signal that works in a main thread only. So child processes do the comparing, each in its
main thread and with a memory limit; the caller waits for `LIMIT_S` and then starts a fresh one.
There are as many as callers compare at the same time, up to `MOST_PROCESSES`. A child ends with its
parent, when its standard input closes.

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
from importlib.util import find_spec
from queue import LifoQueue
from typing import IO

LIMIT_S = 20.0
"""Longest wait for one comparison; what takes longer counts as not equal."""
ENDLESS = "(cannot be compared)"
MOST_PROCESSES = min(8, os.cpu_count() or 1)
# sympy alone takes seconds to import, on a busy machine many.
_START_LIMIT_S = 120.0
# Parsing and comparing get so long each, so that the child mostly answers before `LIMIT_S` ends it.
_STEP_LIMIT_S = 4
# A power tower is evaluated until this is used up, not until the machine is.
_MEMORY_BYTES = 4 << 30


class _Child:
    """A process that compares, started when first needed, for one caller at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = -1

    def read(self, text: str, truth: str) -> tuple[bool, str | None]:
        process = self._running()
        question = json.dumps([text, truth]).encode() + b"\n"
        answer = _exchange(process, question, LIMIT_S)
        if answer is None:
            self._stop()
            return False, ENDLESS
        equal, stated = json.loads(answer)
        return equal, stated

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


def equivalent(text: str, truth: str) -> tuple[bool, str | None]:
    """Whether the final answer stated in `text` equals `truth` (LaTeX or plain) mathematically, and
    what it states, in math-verify's own writing; None where it states nothing, `ENDLESS` where that
    could not be compared.

    Raises `ConfigurationError` when math-verify is not installed.
    """
    # The last one given back is the first one taken, so that no more are started than are needed.
    # Whoever holds one gives it back within the limits of its start and of one comparison.
    child = _CHILDREN.get()
    try:
        return child.read(text, truth)
    finally:
        _CHILDREN.put(child)


def _children() -> LifoQueue[_Child]:
    children: LifoQueue[_Child] = LifoQueue()
    for _ in range(MOST_PROCESSES):
        children.put(_Child())
    return children


_CHILDREN = _children()


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
            said = str(stated[0]) if stated else None
        except (MemoryError, RecursionError):
            equal, said = False, ENDLESS
        sys.stdout.write(json.dumps([equal, said]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
