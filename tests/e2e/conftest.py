"""Real runs of the trainer on the CPU, as a user starts them, only smaller."""

from __future__ import annotations

import json
import os
import re
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

from algo.runs.summary import read_metrics

ROOT = Path(__file__).parents[2]
_MARK = "ROPD_TEST_RUN"

# What differs from configs/ropd_cpu.yaml: a barely trained student, few prompts, short answers.
SMALL = (
    "example.train_prompts=48",
    "example.val_prompts=4",
    "example.warm_start_steps=60",
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

    def wait(self, timeout: float = 420) -> int:
        return self.process.wait(timeout)

    def until(self, happened: Callable[[], object], timeout: float = 240) -> None:
        """Wait until ``happened()`` is true, while the trainer runs."""
        deadline = time.monotonic() + timeout
        while not happened():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL, as the out-of-memory killer would, to the trainer and all that it started."""
        for process in self.alive():
            process.kill()
        self.process.wait(30)

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

    def left_behind(self, patience: float = 20) -> list[str]:
        """Names of processes still there ``patience`` seconds after the end."""
        deadline = time.monotonic() + patience
        while (rest := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.5)
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
def example_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's artefacts, made once and shared by all runs."""
    return tmp_path_factory.mktemp("example")


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
