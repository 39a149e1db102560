"""What the tests of the teacher builder share: prompts, and the command run on them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from algo.paths import REPOSITORY
from algo.testing import FakeOpenAI
from tests.builders.patience import patience


def write_prompts(path: Path, texts: Sequence[str]) -> Path:
    rows = [{"prompt": [{"role": "user", "content": text}], "data_source": "x"} for text in texts]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def command(endpoint: FakeOpenAI, data: Path, out: Path, *extra: str) -> list[str]:
    return [
        *(sys.executable, "-m", "algo.cli", "teacher", "build"),
        *("--data", str(data), "--out", str(out), "--model", "mock"),
        *("--base-url", endpoint.base_url, "teacher.temperature=0.7", *extra),
    ]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "ROPD_"))}
    return kept | {"PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1", "TEACHER_KEY": "secret-key"}


def build(
    endpoint: FakeOpenAI, data: Path, out: Path, *extra: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(endpoint, data, out, *extra),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
