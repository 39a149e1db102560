"""The checkout's `.env`: settings and keys as KEY=VALUE lines, quoted as python-dotenv has it.

Variables that are set already win, and nothing in a value is expanded or run. The `ropd` command
and the trainer load it; for a program that is not ours, such as Ray's daemon,

    python -m algo.env_file COMMAND [ARGUMENT]...

runs COMMAND with it. What the scripts need before there is a Python (the environment's folder,
pip's settings) they read from the file themselves: `training/environment.sh`.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from dotenv.parser import parse_stream

from algo.errors import ConfigurationError
from algo.paths import absolute

ENV_FILE: Final = absolute(".env")


def load_env_file() -> None:
    """Add the file's variables to this process's; no file is no error.

    Raises `ConfigurationError` for a line that is no assignment; it quotes no value.
    """
    if not ENV_FILE.is_file():
        return
    try:
        with ENV_FILE.open(encoding="utf-8") as file:
            bindings = list(parse_stream(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{ENV_FILE} cannot be read: {error}") from None
    for binding in bindings:
        text = binding.original.string
        if binding.error or (binding.key is not None and binding.value is None):
            blank = text[: len(text) - len(text.lstrip())].count("\n")
            raise ConfigurationError(
                f"{ENV_FILE}, line {binding.original.line + blank}: expected KEY=VALUE, with the "
                "value's quotes closed and nothing after them"
            )
        if binding.key is not None and binding.value is not None:
            os.environ.setdefault(binding.key, binding.value)


def main() -> None:
    command = sys.argv[1:]
    try:
        if not command:
            raise ConfigurationError("python -m algo.env_file: give the command to run")
        load_env_file()
    except ConfigurationError as error:
        print(f"ropd: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"ropd: cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        raise SystemExit(127) from None


if __name__ == "__main__":
    main()
