"""`training/environment.sh`: the environment is made once, from the pins and the sources of pip."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.builders.checkout import FAKE_UV, Checkout, is_running, wait_for_text
from tests.builders.patience import patience


def uv_calls(checkout: Checkout) -> list[str]:
    return Path(checkout.environ["RECORD_UV"]).read_text().splitlines()


def test_second_start_installs_nothing_until_the_pins_change(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV)
    for _ in range(2):
        assert checkout.run("training/train.sh", ROPD_EXTRA="cpu").returncode == 0
    assert [call.split()[:2] for call in uv_calls(checkout)] == [
        ["venv", "--quiet"],
        ["pip", "compile"],
        ["pip", "install"],
    ]
    with (checkout.root / "constraints/cpu.txt").open("a") as pins:
        pins.write("six==1.17.0\n")
    assert checkout.run("training/train.sh", ROPD_EXTRA="cpu").returncode == 0
    assert [call.split()[1] for call in uv_calls(checkout)[3:]] == ["compile", "install"]


def test_two_starts_at_once_install_once(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV.replace('"pip install")', '"pip install") sleep 1;'))
    starts = [checkout.start("training/train.sh", ROPD_EXTRA="cpu") for _ in range(2)]
    for start in starts:
        start.communicate(timeout=patience(60))
    assert [start.returncode for start in starts] == [0, 0]
    assert len([call for call in uv_calls(checkout) if call.startswith("pip install")]) == 1


def test_failed_installation_is_tried_again(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV)
    failed = checkout.run("training/train.sh", ROPD_EXTRA="cpu", UV_FAILS="1")
    assert failed.returncode == 1
    assert "uv: no such package" in failed.stderr
    assert not Path(checkout.environ["RECORD"]).exists()
    assert checkout.run("training/train.sh", ROPD_EXTRA="cpu").returncode == 0


def test_cuda_in_the_cpu_environment_is_an_error(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV)
    failed = checkout.run("training/train.sh", ROPD_EXTRA="cpu", EXIT_CODE="1")
    assert failed.returncode == 1
    assert "PIP_FIND_LINKS" in failed.stderr
    assert not (checkout.root / ".venv/.ropd-setup").exists()


@pytest.mark.parametrize(
    ("resolves", "asks_for_cpu_builds"),
    [("torch==2.13.0+cpu", False), ("nvidia-cublas==13.1.1\ntorch==2.13.0", True)],
)
def test_cpu_builds_of_torch_are_asked_for_where_the_sources_offer_cuda_only(
    checkout: Checkout, resolves: str, asks_for_cpu_builds: bool
) -> None:
    checkout.stub("uv", FAKE_UV)
    assert checkout.run("training/train.sh", ROPD_EXTRA="cpu", UV_RESOLVES=resolves).returncode == 0
    assert ("--torch-backend cpu" in uv_calls(checkout)[-1]) is asks_for_cpu_builds


def test_uv_is_given_the_sources_of_pip(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV.replace("shift 2\n", 'shift 2; env >"$RECORD_UV.env"\n'))
    done = checkout.run(
        "training/train.sh",
        ROPD_EXTRA="cpu",
        PIP_FIND_LINKS="/wheels /more",
        PIP_INDEX_URL="https://mirror.invalid/simple",
        PIP_EXTRA_INDEX_URL="https://extra.invalid/simple",
    )
    assert done.returncode == 0, done.stderr
    environ = Path(checkout.environ["RECORD_UV"] + ".env").read_text().splitlines()
    assert {
        "UV_FIND_LINKS=/wheels,/more",
        "UV_DEFAULT_INDEX=https://mirror.invalid/simple",
        "UV_INDEX=https://extra.invalid/simple",
        "UV_INDEX_STRATEGY=unsafe-best-match",
    } <= set(environ)


def test_a_folder_that_is_no_environment_is_never_cleared(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV)
    checkout.run("training/train.sh", ROPD_EXTRA="cpu", ROPD_VENV=str(checkout.elsewhere))
    assert "--clear" not in uv_calls(checkout)[0].split()


def test_relative_environment_folder_is_the_callers(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV)
    done = checkout.run("training/train.sh", ROPD_EXTRA="cpu", ROPD_VENV="mine")
    assert done.returncode == 0, done.stderr
    assert (checkout.elsewhere / "mine/.ropd-setup").exists()
    assert f"--python {checkout.elsewhere}/mine/bin/python" in uv_calls(checkout)[-1]


def test_sigterm_during_setup_ends_the_installation(checkout: Checkout) -> None:
    installing = checkout.elsewhere / "installing"
    checkout.stub(
        "uv",
        FAKE_UV.replace(
            '"pip install")', f'"pip install") echo $$ >"{installing}"; exec sleep 60;'
        ),
    )
    process = checkout.start("training/train.sh", ROPD_EXTRA="cpu")
    pid = int(wait_for_text(installing))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=patience(30))
    assert process.returncode == 143
    assert not is_running(pid)
    assert not (checkout.root / ".venv/.ropd-setup").exists()


def test_a_home_that_cannot_be_written_is_no_obstacle(checkout: Checkout) -> None:
    checkout.stub(
        "uv", FAKE_UV.replace('"pip install")', '"pip install") echo "$UV_CACHE_DIR" >&2;')
    )
    done = checkout.run("training/train.sh", ROPD_EXTRA="cpu", HOME="/proc")
    assert done.returncode == 0, done.stderr
    assert "/proc/.cache/uv cannot be written" in done.stderr
    assert str(checkout.root / ".cache/packages") in done.stderr.splitlines()
