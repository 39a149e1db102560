"""training/slurm.sh with stand-ins for Slurm, Ray and the trainer: what runs where, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.builders.patience import patience, wait_until

ROOT = Path(__file__).parents[3]

# Runs its command here, and records the node asked for.
SRUN = """#!/bin/bash
node=
while [[ $1 == --* ]]; do
  case $1 in
    --nodelist=*) node=${1#*=} ;;
    --exclude=*) node="not ${1#*=}" ;;
  esac
  shift
done
export NODE=$node
exec "$@"
"""
RAY = """#!/bin/bash
trap 'echo "ray ended on $NODE" >>"$RECORD"; exit 0' TERM
echo "ray $* on $NODE" >>"$RECORD"
echo "ray's workers get $OPENAI_API_KEY on $NODE" >>"$RECORD"
for ((i = 0; i < 600; i++)); do sleep 0.1; done
"""
# `python -P -c ...` asks whether all nodes have joined; `python -P -m ropd_verl.train` trains;
# `python -P -m algo.env_file` is the real one.
PYTHON = f"""#!{sys.executable}
import os, sys, time
if "algo.env_file" in sys.argv:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
record = open(os.environ["RECORD"], "a")
if "-c" in sys.argv:
    lines = open(os.environ["RECORD"]).read()
    sys.exit(0 if lines.count("ray start") == 2 else 1)
print("train", *sys.argv[4:], "at", os.environ["RAY_ADDRESS"], "on", os.environ["NODE"],
      file=record, flush=True)
time.sleep(float(os.environ.get("TRAIN_S", "0")))
sys.exit(int(os.environ.get("EXIT_CODE", "0")))
"""


@dataclass(frozen=True)
class Job:
    """A repository of stand-ins; `start` is what `sbatch` would run."""

    root: Path
    record: Path
    environ: dict[str, str]

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        # Slurm runs a copy of the script from its own folder.
        return subprocess.Popen(
            ["bash", str(self.root.parent / "spooled-script"), *arguments],
            env={**self.environ, **environ},
            cwd="/",
            stderr=subprocess.PIPE,
            text=True,
        )

    def lines(self) -> list[str]:
        return self.record.read_text().splitlines() if self.record.exists() else []

    def wait_for(self, text: str) -> None:
        wait_until(lambda: any(text in line for line in self.lines()), 30, f"no {text!r}")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    root = tmp_path / "a repository"
    (root / "training").mkdir(parents=True)
    for name in ("environment.sh", "train.sh", "slurm.sh"):
        (root / "training" / name).write_text((ROOT / "training" / name).read_text())
    (tmp_path / "spooled-script").write_text((root / "training/slurm.sh").read_text())
    (root / "algo").mkdir()
    for name in ("__init__", "env_file", "errors", "paths"):
        (root / f"algo/{name}.py").write_text((ROOT / f"algo/{name}.py").read_text())
    (root / ".env").write_text('OPENAI_API_KEY="from \\"env\\" file"\n')
    tools = tmp_path / "bin"
    tools.mkdir()
    scontrol = "#!/bin/sh\nprintf 'node1\\nnode2\\n'\n"
    for name, text in (("srun", SRUN), ("ray", RAY), ("python", PYTHON), ("scontrol", scontrol)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    record = tmp_path / "record"
    environ = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "RECORD": str(record),
        "PYTHONPATH": str(root),
        "ROPD_SKIP_SETUP": "1",
        "SLURM_SUBMIT_DIR": str(root),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
    }
    return Job(root, record, environ)


def test_ray_starts_on_all_nodes_and_training_on_the_first(job: Job) -> None:
    started = job.start("hardware=multinode", EXIT_CODE="3")
    assert started.wait(patience(60)) == 3, started.stderr and started.stderr.read()
    lines = job.lines()
    assert any("start --head" in line and line.endswith("on node1") for line in lines)
    assert any("--address=node1:6379" in line and line.endswith("on not node1") for line in lines)
    [training] = [line for line in lines if line.startswith("train")]
    assert training == "train hardware=multinode at node1:6379 on node1"
    for node in ("node1", "not node1"):
        assert f'ray\'s workers get from "env" file on {node}' in lines
    assert len([line for line in lines if line.startswith("ray ended")]) == 2


def test_a_signal_ends_training_and_ray(job: Job) -> None:
    started = job.start(TRAIN_S="60")
    job.wait_for("train")
    started.send_signal(signal.SIGTERM)
    assert started.wait(patience(30)) == 143
    assert len([line for line in job.lines() if line.startswith("ray ended")]) == 2


def test_nodes_that_stay_away_are_an_error(job: Job) -> None:
    (job.root.parent / "bin/python").write_text(
        PYTHON.replace('count("ray start") == 2', "isdigit()")
    )
    started = job.start(ROPD_RAY_STARTUP_TIMEOUT_S="1")
    assert started.wait(patience(60)) == 1
    assert started.stderr is not None
    assert "ROPD_RAY_STARTUP_TIMEOUT_S" in started.stderr.read()


def test_a_broken_env_file_ends_the_job_before_ray_starts(job: Job) -> None:
    (job.root / ".env").write_text("no assignment\n")
    started = job.start()
    assert started.wait(patience(60)) == 1
    assert started.stderr is not None
    assert "line 1: expected KEY=VALUE" in started.stderr.read()
    assert job.lines() == []


def test_outside_a_job_it_says_so(job: Job) -> None:
    started = job.start(SLURM_JOB_NODELIST="")
    assert started.wait(patience(60)) == 1
    assert started.stderr is not None
    assert "start it with sbatch" in started.stderr.read()
