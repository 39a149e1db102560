"""`training/train.sh`: arguments, exit codes and signals, and which environment it asks for."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.builders.checkout import FAKE_UV, Checkout
from tests.builders.patience import patience


def test_train_passes_arguments_and_exit_code_from_another_directory(checkout: Checkout) -> None:
    arguments = ["--config-name", "ropd_cpu", "trainer.total_training_steps=5", "x='a b'", ""]
    done = checkout.run("training/train.sh", *arguments, ROPD_SKIP_SETUP="1", EXIT_CODE="37")
    assert done.returncode == 37
    assert done.stderr == ""
    assert checkout.recorded() == [["-P", "-m", "ropd_verl.train", *arguments]]


def test_sigterm_and_sigint_reach_the_trainer(checkout: Checkout) -> None:
    checkout.stub(
        "python",
        f"#!{sys.executable}\n"
        "import signal, sys, time\n"
        "for number in (signal.SIGTERM, signal.SIGINT):\n"
        "    signal.signal(number, lambda number, frame: sys.exit(100 + number))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n",
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        process = checkout.start("training/train.sh", ROPD_SKIP_SETUP="1", ROPD_EXTRA="cpu")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        process.communicate(timeout=patience(30))
        assert process.returncode == 100 + number


def test_without_gpu_the_gpu_configuration_names_the_ways_out(checkout: Checkout) -> None:
    failed = checkout.run("training/train.sh", ROPD_SKIP_SETUP="1")
    assert failed.returncode == 1
    assert all(way in failed.stderr for way in ("ropd_cpu", "ROPD_DRYRUN=true", "ROPD_EXTRA=gpu"))


@pytest.mark.parametrize(
    ("arguments", "environ", "gpu", "extras"),
    [
        (["--config-name", "ropd_cpu"], {}, True, ".[cpu,batch,math,dev]"),
        (["--config-name=ropd_cpu"], {}, False, ".[cpu,batch,math,dev]"),
        (["-cn", "ropd_cpu"], {}, False, ".[cpu,batch,math,dev]"),
        ([], {}, True, ".[gpu,batch,math]"),
        ([], {"ROPD_DRYRUN": "true"}, False, ".[cpu,batch,math,dev]"),
        ([], {"ROPD_DRYRUN": "true"}, True, ".[gpu,batch,math]"),
        ([], {"ROPD_EXTRA": "gpu"}, False, ".[gpu,batch,math]"),
        ([], {"ROPD_EXTRA": "cpu"}, True, ".[cpu,batch,math,dev]"),
    ],
)
def test_environment_follows_configuration_and_machine(
    checkout: Checkout, arguments: list[str], environ: dict[str, str], gpu: bool, extras: str
) -> None:
    checkout.stub("uv", FAKE_UV)
    if gpu:
        checkout.stub("nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-0)'\n")
    done = checkout.run("training/train.sh", *arguments, **environ)
    assert done.returncode == 0, done.stderr
    assert f"--editable {extras} " in Path(checkout.environ["RECORD_UV"]).read_text()
