"""Real runs of the trainer on the CPU, as a user starts them, only smaller."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from algo.paths import REPOSITORY
from algo.runs.summary import read_metrics
from tests.builders.patience import patience, wait_until

_MARK = "ROPD_TEST_RUN"

# What differs from configs/ropd_cpu.yaml: a barely trained student, few prompts, few rollouts.
EXAMPLE = {"train_prompts": 48, "val_prompts": 4, "warm_start_steps": 60}
SMALL = (
    *(f"example.{key}={value}" for key, value in EXAMPLE.items()),
    "data.train_batch_size=4",
    "actor_rollout_ref.rollout.n=4",
    "trainer.test_freq=-1",
    "trainer.val_before_train=False",
    "trainer.save_freq=1",
)


@dataclass
class Started:
    """A running trainer."""

    process: subprocess.Popen[str]
    root: Path
    output: Path
    mark: str

    @property
    def run(self) -> Path:
        """Directory of the newest run below the root."""
        return max(p for p in self.root.iterdir() if p.is_dir() and p.name.isdigit())

    def exit_code(self, seconds: float = 420) -> int:
        return self.process.wait(patience(seconds))

    def until(self, happened: Callable[[], object], seconds: float = 240) -> None:
        """Wait until ``happened()`` is true, while the trainer runs."""

        def happened_or_ended() -> object:
            return happened() or self.process.poll() is not None

        wait_until(happened_or_ended, seconds, self.output)
        assert happened(), self.output.read_text()

    def kill(self) -> None:
        """SIGKILL, as the out-of-memory killer would, to the trainer and all that it started."""
        for process in self.alive():
            process.kill()
        self.process.wait(patience(30))

    def alive(self) -> list[psutil.Process]:
        """Every process that descends from this start, orphans included."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get(_MARK) == self.mark
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    def left_behind(self, seconds: float = 20) -> list[str]:
        """Names of processes still there ``seconds`` after the end."""
        began = time.monotonic()
        while (rest := self.alive()) and time.monotonic() - began < patience(seconds):
            time.sleep(0.2)
        return [" ".join(p.cmdline())[:120] for p in rest if p.is_running()]

    @property
    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()

    @property
    def log(self) -> str:
        """verl's and Ray's own output, without colours."""
        text = "".join(p.read_text() for p in sorted((self.run / "logs").glob("*.log")))
        return re.sub(r"\x1b\[[0-9;]*m", "", text)

    @property
    def steps(self) -> dict[int, dict[str, Any]]:
        """Metrics by step, as far as they are written."""
        return read_metrics(sorted(self.root.glob("[0-9]*/metrics/*.jsonl")))

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.run / "summary.json").read_text())


Start = Callable[..., Started]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's artefacts, made once, by whichever of xdist's workers comes first."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / "example.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other worker's timeout bounds its stay
        settings = {"workdir": str(folder / "example"), **EXAMPLE}
        code = f"from examples.arithmetic import prepare; prepare({settings!r})"
        made = subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=patience(240),
        )
        assert made.returncode == 0, made.stdout + made.stderr
    return folder / "example"


@pytest.fixture
def example_dir(prepared: Path, tmp_path: Path) -> Path:
    """The example's artefacts, for one test: two starts at once would meet in one folder."""
    return shutil.copytree(prepared, tmp_path / "example")


@pytest.fixture
def start(tmp_path: Path, example_dir: Path) -> Iterator[Start]:
    """Start the trainer: ``start(*overrides, variables={...})``."""
    begun: list[Started] = []

    def run(*overrides: str, variables: Mapping[str, str] | None = None) -> Started:
        arguments: Sequence[str] = (
            "--config-name=ropd_cpu",
            f"run_root={tmp_path}",
            f"example.workdir={example_dir}",
            *SMALL,
            *overrides,
        )
        mark = uuid.uuid4().hex
        output = tmp_path / f"output{len(begun)}.txt"
        with output.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ropd_verl.train", *arguments],
                cwd=tmp_path,
                env=os.environ | {_MARK: mark} | dict(variables or {}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )
        begun.append(Started(process, tmp_path, output, mark))
        return begun[-1]

    yield run
    for started in begun:
        if started.process.poll() is None:
            started.process.send_signal(signal.SIGTERM)
        for process in started.alive():
            process.kill()
