"""Environments and processes of the commands in this folder, which install what the suite lacks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_INSTALL_S: Final = 1200
_STOP_S: Final = 15


def installed(folder: Path, name: str, packages: Sequence[str], uploaded_before: str) -> Path:
    """The Python of an environment below `folder` that holds `packages`, made where it is missing.

    Nothing that was uploaded to the index on `uploaded_before` (a date) or later is installed.
    """
    home = folder.absolute() / name
    python, done = home / "bin/python", home / "installed.txt"
    wanted = "\n".join([uploaded_before, *packages])
    if done.is_file() and done.read_text() == wanted:
        return python
    print(f"installing {', '.join(packages)} into {home}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", home], check=True, timeout=_INSTALL_S)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # Pip 26.0 is the first that knows upload dates.
    subprocess.run([*pip, "pip>=26"], check=True, timeout=_INSTALL_S)
    dated = [*pip, f"--uploaded-prior-to={uploaded_before}"]
    subprocess.run([*dated, *packages], check=True, timeout=_INSTALL_S)
    done.write_text(wanted)
    return python


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started in a session of its own, and what it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
            return
