"""Runs the embedded judge as a child process, from a context manager.

The child takes a free loopback port, and ends with the context, on SIGTERM, or by itself when this
process dies in any way. It has a process session of its own: Ctrl-C reaches the trainer alone,
which may still need verdicts to end well.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from algo.errors import RopdError
from examples.arithmetic.impairments import Impairments

START_LIMIT_S = 60.0
STOP_LIMIT_S = 10.0
_POLL_S = 0.05
_ROOT = Path(__file__).resolve().parents[2]


def module_command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def module_environment() -> dict[str, str]:
    """This environment, in which a child finds this repository's packages from any directory."""
    paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@contextmanager
def running_judge(impairments: Impairments, log: Path) -> Iterator[str]:
    """Yield the judge's base URL, `/v1` included; its output is appended to `log`.

    Raises `RopdError` when it does not start within `START_LIMIT_S`.
    """
    with tempfile.TemporaryDirectory(prefix="arithmetic-judge-") as scratch, log.open("ab") as out:
        port_file, impaired = Path(scratch, "port"), Path(scratch, "impairments.json")
        impaired.write_text(impairments.model_dump_json())
        process = _start(port_file, impaired, out)
        try:
            port = _await_port(process, port_file, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            _stop(process)


def _start(port_file: Path, impaired: Path, out: IO[bytes]) -> subprocess.Popen[bytes]:
    command = module_command(
        "examples.arithmetic.judge",
        *("--port", "0"),
        *("--port-file", str(port_file)),
        *("--parent-pid", str(os.getpid())),
        *("--impairments", str(impaired)),
    )
    return subprocess.Popen(
        command,
        env=module_environment(),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _await_port(process: subprocess.Popen[bytes], port_file: Path, log: Path) -> int:
    deadline = time.monotonic() + START_LIMIT_S
    while not port_file.exists():
        if process.poll() is not None:
            raise RopdError(f"the embedded judge exited with code {process.returncode}: see {log}")
        if time.monotonic() > deadline:
            raise RopdError(f"the embedded judge took over {START_LIMIT_S:g} s to start: see {log}")
        time.sleep(_POLL_S)
    return int(port_file.read_text())


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_LIMIT_S)
