"""The suite's verdict does not depend on how it was started.

Some of its tests, chosen for what they rely on, are run again from a parent that leaves them less
than a terminal does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from algo.paths import REPOSITORY
from tests.builders.patience import patience

# Signals to a script, to a server and to a command; what is read from files and variables.
CHOSEN = (
    "contract/scripts/test_train.py::test_sigterm_and_sigint_reach_the_trainer",
    "contract/example/test_judge.py::test_a_signal_ends_it_cleanly_even_with_a_request_hanging",
    "contract/teacher/test_build.py::test_interrupt_waits_for_the_requests_in_flight",
    "unit/project/test_env_file.py",
)
IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


def as_in_the_background() -> None:
    """What `nohup`, a script's `&` and a careless parent leave to a child."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {*IGNORED, signal.SIGTERM, signal.SIGCHLD})
    os.umask(0o077)
    os.close(0)


def test_ignored_signals_a_bare_environment_and_another_folder_change_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "temporary").mkdir()
    environ = {
        "HOME": "/proc",  # where nobody can write, root included
        "LANG": "C",
        "LC_ALL": "C",
        "PATH": os.environ["PATH"],
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "TMPDIR": "temporary",
    }
    tests = [str(REPOSITORY / "tests" / chosen) for chosen in CHOSEN]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests],
        cwd=tmp_path,
        env=environ,
        preexec_fn=as_in_the_background,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=patience(120),
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
