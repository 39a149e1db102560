"""A copy of the shell scripts among stand-ins for what they start (python, uv)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from algo.paths import REPOSITORY
from tests.builders.patience import patience, wait_until

# Appends its arguments as one JSON line, then exits with $EXIT_CODE.
RECORDING_PYTHON = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["RECORD"], "a") as record:
    record.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(int(os.environ.get("EXIT_CODE", "0")))
"""

# `uv venv` makes a folder with the recording python in it; $UV_RESOLVES is what torch resolves to;
# $UV_FAILS makes the installation fail.
FAKE_UV = """#!/bin/bash
[[ $* == "venv --help" ]] && { echo "      --clear"; exit 0; }
[[ $1 == --directory ]] && shift 2
printf '%s\\n' "$*" >>"$RECORD_UV"
case "$1 $2" in
  "venv "*) mkdir -p "${@: -1}/bin" && cp "$PYTHON_STUB" "${@: -1}/bin/python" ;;
  "pip compile") cat >/dev/null; printf '%s\\n' "${UV_RESOLVES:-torch==2.13.0+cpu}" ;;
  "pip install") [[ -z ${UV_FAILS:-} ]] || { echo "uv: no such package" >&2; exit 2; } ;;
esac
"""


@dataclass
class Checkout:
    """A copy of the scripts under a path with spaces, and the folder that stands first on PATH."""

    root: Path
    stubs: Path
    elsewhere: Path
    environ: dict[str, str] = field(default_factory=dict)

    def stub(self, name: str, text: str) -> Path:
        path = self.stubs / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def start(self, script: str, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(self.root / script), *arguments],
            cwd=self.elsewhere,
            env=self.environ | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        process = self.start(script, *arguments, **environ)
        stdout, stderr = process.communicate(timeout=patience(60))
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def recorded(self) -> list[list[str]]:
        record = Path(self.environ["RECORD"])
        return [json.loads(line) for line in record.read_text().splitlines()]


def make_checkout(base: Path) -> Checkout:
    checkout = Checkout(base / "repo", base / "stubs", base / "elsewhere")
    for folder in ("training", "constraints"):
        shutil.copytree(REPOSITORY / folder, checkout.root / folder)
    shutil.copy(REPOSITORY / "pyproject.toml", checkout.root)
    checkout.stubs.mkdir()
    checkout.elsewhere.mkdir()
    python = checkout.stub("python", RECORDING_PYTHON)
    checkout.stub("nvidia-smi", "#!/bin/sh\nexit 9\n")
    checkout.environ = {
        "PATH": f"{checkout.stubs}:/usr/bin:/bin",
        "HOME": str(base),
        "RECORD": str(base / "python.jsonl"),
        "RECORD_UV": str(base / "uv.txt"),
        "PYTHON_STUB": str(python),
    }
    return checkout


def is_running(pid: int) -> bool:
    """True for a process that still runs; a zombie that nobody has waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, timeout=patience(10)
    ).stdout
    return bool(state.strip()) and not state.startswith("Z")


def wait_for_text(path: Path) -> str:
    wait_until(lambda: path.exists() and path.read_text(), 30, f"{path} is not written")
    return path.read_text()
