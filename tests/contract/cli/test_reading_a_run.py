"""A finished run is read where verl, Ray and torch cannot be imported, and soon."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from algo.errors import ConfigurationError
from algo.runs.configuration import override, recorded_config
from tests.builders.finished_run import write_run
from tests.builders.patience import patience

TRAINER = ("verl", "ray", "torch", "transformers", "vllm")
# On an idle core the report takes 0.8 s; a timing belongs to benchmarks, a runaway here.
REPORT_LIMIT_S = 3.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "ropd_cpu" / "001")


def ropd(*arguments: str, barred: tuple[str, ...] = TRAINER) -> subprocess.CompletedProcess[str]:
    """The command in a process in which an import of what is barred fails."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({barred!r}))\n"
        "from algo.cli import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )


def said_by(*arguments: str, barred: tuple[str, ...] = TRAINER) -> str:
    done = ropd(*arguments, barred=barred)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_barred_cannot_be_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['torch'] = None; import torch"],
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert "ModuleNotFoundError" in done.stderr


def test_the_report_is_written_soon(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    # Not even the plugin, which is nothing but the trainer's.
    said_by("report", str(run), "--out", str(out), barred=(*TRAINER, "ropd_verl"))
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert "640" in out.read_text()
    assert spent < REPORT_LIMIT_S


def test_the_journal_replays(run: Path) -> None:
    said = said_by("replay", str(run / "journal"), barred=(*TRAINER, "ropd_verl"))
    assert "640 judged groups replayed, 0 differ; 0 failed groups" in said


def test_the_index_is_verified(run: Path) -> None:
    said = said_by("teacher", "verify", str(run / "teacher_index"), barred=(*TRAINER, "ropd_verl"))
    assert "2,560 whole answers, 0 damaged places" in said


def test_a_plan_comes_from_the_runs_own_configuration(run: Path) -> None:
    said = said_by("plan", "--run", str(run))
    assert "40 steps x 16 prompts x 8 rollouts" in said
    assert "ropd: m=4 teacher answers, rubric shared" in said
    assert "tokens      a step 0.03 M in, 0.01 M out" in said
    assert "tail        0.4 s" in said
    assert "disk        give --parameters (billions), for torch and transformers" in said


def test_a_plan_takes_overrides_on_top(run: Path) -> None:
    said = said_by(
        *("plan", "--run", str(run), "--parameters", "4"),
        *("trainer.total_training_steps=7", "ropd.verification.mode=isolated"),
    )
    assert "7 steps x 16 prompts x 8 rollouts" in said
    assert "m=4 teacher answers, rubric shared" in said
    assert "verification isolated" in said
    assert "disk        checkpoints 48.0 GB," in said  # one of step 7, for save_freq is 10


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("trainer.total_training_stepz=7", "has no key trainer.total_training_stepz"),
        ("mode=colocate_async", "group of configs/"),
        ("~seed", "key=value only"),
        ("seed=1,2", "key=value only"),
        ("seed=[1", "configuration: "),
        ("ropd.rubric.mode=nobodys", "ropd.rubric.mode='nobodys'"),
        ("data.train_batch_size=${nowhere}", "nowhere"),
        ("--config-name=ropd_cpu", "give one of the two"),
    ],
)
def test_a_wrong_override_is_one_line(run: Path, given: str, named: str) -> None:
    done = ropd("plan", "--run", str(run), given)
    assert done.returncode == 1
    assert done.stdout == ""
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_overrides_have_hydras_syntax(run: Path) -> None:
    config = recorded_config(run)
    override(config, ["seed=3", "++trainer.new=[1,x]", "ropd.judge.limits={outage_s: 9}"])
    assert (config.seed, config.data.seed, config.trainer.new) == (3, 3, [1, "x"])
    assert config.ropd.judge.limits.outage_s == 9
    assert config.ropd.judge.limits.concurrency == 64  # merged, as when composed


@pytest.mark.parametrize("text", ["a: [", "- 1", "a: \x00", "a: ${b"])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    with pytest.raises(ConfigurationError, match=r"holds no config\.yaml"):
        recorded_config(tmp_path)
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"config\.yaml.*remove or restore it"):
        recorded_config(tmp_path)
