"""The `ropd` command starts fast: what does the work is imported when a command runs."""

from __future__ import annotations

import subprocess
import sys


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, algo.cli; "
        "print({m.split('.')[0] for m in sys.modules} & "
        "{'aiohttp', 'datasets', 'pyarrow', 'ray', 'torch', 'transformers', 'verl'})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "set()"
