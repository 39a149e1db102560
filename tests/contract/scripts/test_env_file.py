"""`.env`, as far as the scripts read it before there is a Python."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from dotenv import dotenv_values

from tests.builders.checkout import FAKE_UV, Checkout


def read_env(checkout: Checkout, text: str, **environ: str) -> dict[str, str]:
    """What `ropd_read_env` exports of the lines for KEY and SET..."""
    (checkout.root / ".env").write_text(text)
    script = checkout.root / "load.sh"
    script.write_text(
        'set -euo pipefail; source "$(dirname "$0")/training/environment.sh"\n'
        "ropd_read_env 'KEY|SET|EMPTY|UNSET'; env -0\n"
    )
    loaded = checkout.run("load.sh", **environ)
    assert loaded.returncode == 0, loaded.stderr
    pairs = (entry.partition("=") for entry in loaded.stdout.split("\0") if entry)
    return {name: value for name, _, value in pairs}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("KEY=plain", "plain"),
        ("  export KEY = spaced out  ", "spaced out"),
        ("KEY=a=b==", "a=b=="),
        ("KEY=", ""),
        ("KEY= # nothing", ""),
        ("KEY=before # after", "before"),
        ("KEY=with#hash", "with#hash"),
        ("KEY=it's", "it's"),
        (r"KEY=back\slash", r"back\slash"),
        ("KEY='single $HOME # kept \"'  # comment", 'single $HOME # kept "'),
        ('KEY="double # kept"', "double # kept"),
        (
            "KEY=$(touch executed) `touch executed` $HOME",
            "$(touch executed) `touch executed` $HOME",
        ),
        ("KEY=carriage return\r", "carriage return"),
    ],
)
def test_env_file_value(checkout: Checkout, line: str, value: str) -> None:
    text = f"# a comment\n\n{line}"
    assert read_env(checkout, text)["KEY"] == value
    # Python reads the whole file with python-dotenv, and must find the same in it.
    assert dotenv_values(stream=StringIO(text), interpolate=False)["KEY"] == value
    assert not (checkout.elsewhere / "executed").exists()


def test_shell_wins_over_env_file_even_with_an_empty_value(checkout: Checkout) -> None:
    text = "SET=file\nEMPTY=file\nUNSET=file\n"
    loaded = read_env(checkout, text, SET="shell", EMPTY="")
    assert (loaded["SET"], loaded["EMPTY"], loaded["UNSET"]) == ("shell", "", "file")


def test_what_only_python_needs_is_left_to_it(checkout: Checkout) -> None:
    text = 'OTHER=1\nMY_KEY=2\nOTHER="a \\"quote\\""\nno assignment\nKEY=found\n'
    loaded = read_env(checkout, text)
    assert loaded["KEY"] == "found"
    assert not {"OTHER", "MY_KEY"} & loaded.keys()


@pytest.mark.parametrize("value", ['"secret', "'secret' x", r'"sec\"secret"'])
def test_a_value_that_bash_cannot_read_names_the_line_and_stays_secret(
    checkout: Checkout, value: str
) -> None:
    (checkout.root / ".env").write_text(f"GOOD=1\nROPD_VENV={value}\n")
    failed = checkout.run("training/train.sh", ROPD_SKIP_SETUP="1", ROPD_EXTRA="cpu")
    assert failed.returncode == 1
    assert "line 2: give ROPD_VENV" in failed.stderr
    assert "secret" not in failed.stderr


def test_the_setup_takes_its_settings_from_the_env_file(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV.replace("shift 2\n", 'shift 2; env >"$RECORD_UV.env"\n'))
    (checkout.root / ".env").write_text(
        "ROPD_EXTRA=cpu\nROPD_VENV='an environment'\nPIP_INDEX_URL=https://mirror.invalid/simple\n"
        "OPENAI_API_KEY=for-python\n"
    )
    done = checkout.run("training/train.sh")
    assert done.returncode == 0, done.stderr
    assert (checkout.elsewhere / "an environment/.ropd-setup").exists()
    environ = Path(checkout.environ["RECORD_UV"] + ".env").read_text()
    assert "UV_DEFAULT_INDEX=https://mirror.invalid/simple" in environ
    assert "for-python" not in environ
