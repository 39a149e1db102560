"""`.env`, as the scripts read it before Python runs."""

from __future__ import annotations

from io import StringIO

import pytest
from dotenv import dotenv_values

from tests.builders.checkout import Checkout


def load_env(checkout: Checkout, text: str, **environ: str) -> dict[str, str]:
    (checkout.root / ".env").write_text(text)
    script = checkout.root / "load.sh"
    script.write_text(
        'set -euo pipefail; source "$(dirname "$0")/training/environment.sh"\n'
        'ropd_load_env "$ROPD_ROOT/.env"; env -0\n'
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
        ("KEY='single $HOME # kept \"'  # comment", 'single $HOME # kept "'),
        ('KEY="double # kept"', "double # kept"),
        (r'KEY="a \"quoted\" back\\slash"', r'a "quoted" back\slash'),
        (r'KEY="two\\\\ then \\\"quote"', '\\\\ then \\"quote'.join(["two", ""])),
        (
            "KEY=$(touch executed) `touch executed` $HOME",
            "$(touch executed) `touch executed` $HOME",
        ),
        ("KEY=carriage return\r", "carriage return"),
    ],
)
def test_env_file_value(checkout: Checkout, line: str, value: str) -> None:
    text = f"# a comment\n\n{line}"
    assert load_env(checkout, text)["KEY"] == value
    # `ropd` reads the file with python-dotenv, and must find the same in it.
    assert dotenv_values(stream=StringIO(text), interpolate=False)["KEY"] == value
    assert not (checkout.elsewhere / "executed").exists()


def test_shell_wins_over_env_file_even_with_an_empty_value(checkout: Checkout) -> None:
    text = "SET=file\nEMPTY=file\nUNSET=file\n"
    loaded = load_env(checkout, text, SET="shell", EMPTY="")
    assert (loaded["SET"], loaded["EMPTY"], loaded["UNSET"]) == ("shell", "", "file")


@pytest.mark.parametrize("line", ["no assignment", "1KEY=secret", 'KEY="secret', "KEY='secret' x"])
def test_malformed_env_file_names_the_line_and_keeps_the_value_secret(
    checkout: Checkout, line: str
) -> None:
    (checkout.root / ".env").write_text(f"GOOD=1\n{line}\n")
    failed = checkout.run("training/train.sh", ROPD_SKIP_SETUP="1", ROPD_EXTRA="cpu")
    assert failed.returncode == 1
    assert "line 2" in failed.stderr
    assert "secret" not in failed.stderr
