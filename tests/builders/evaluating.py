"""What the tests of `ropd eval` share: sets of problems, and the command run on them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from algo.testing import FakeOpenAI
from tests.builders.patience import patience
from tests.builders.teaching import environment


def write_set(path: Path, truths: Mapping[str, str], data_source: str = "arithmetic") -> Path:
    """A prompt file with one problem a question, graded by `data_source`'s rule."""
    rows = [
        {
            "prompt": [{"role": "user", "content": question}],
            "data_source": data_source,
            "reward_model": {"style": "rule", "ground_truth": truth},
        }
        for question, truth in truths.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "algo.cli", "eval", *words]


def evaluate(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=patience(120),
        check=False,
    )


def run_words(endpoint: FakeOpenAI, file: Path, out: Path, *extra: str) -> tuple[str, ...]:
    """Of `ropd eval run` on one file as the set `own`, four samples a problem."""
    return (
        *("run", "--set", f"own={file}", "--out", str(out), "--model", "mock"),
        *("--base-url", endpoint.base_url, "--samples", "4", *extra),
    )
