"""Runs the embedded judge as a child process, from a context manager.

The child takes a free loopback port, and ends with the context, on SIGTERM, or by itself when this
process dies in any way.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from algo.child_server import child_server
from examples.arithmetic.impairments import Impairments

START_LIMIT_S = 60.0
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
    with tempfile.TemporaryDirectory(prefix="arithmetic-judge-") as scratch:
        port_file, impaired = Path(scratch, "port"), Path(scratch, "impairments.json")
        impaired.write_text(impairments.model_dump_json())
        command = module_command(
            "examples.arithmetic.judge",
            *("--port", "0"),
            *("--port-file", str(port_file)),
            *("--parent-pid", str(os.getpid())),
            *("--impairments", str(impaired)),
        )

        def port() -> str | None:
            return port_file.read_text().strip() if port_file.exists() else None

        with child_server(
            "the embedded judge", command, module_environment(), log, port, START_LIMIT_S
        ) as found:
            yield f"http://127.0.0.1:{found}/v1"
