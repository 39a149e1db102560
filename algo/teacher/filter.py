"""Drops the rows of a prompt file that an index has too few answers for."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from algo.data.prompt_file import read_prompts
from algo.errors import ConfigurationError
from algo.teacher.teacher_index import TeacherIndex


def keep_answered(file: Path, index_path: Path, m: int, out: Path) -> tuple[int, int]:
    """Write the rows with at least `m` usable answers to `out`, every column as it is.

    Returns how many were kept, and of how many. Raises `ConfigurationError` when none is left.
    """
    with TeacherIndex.open(index_path) as index:
        keep = [index.count(prompt.fingerprint) >= m for prompt in read_prompts(file)]
    if not any(keep):
        raise ConfigurationError(f"no prompt of {file} has {m} answers in {index_path}")
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    pq.write_table(pq.read_table(file).filter(pa.array(keep)), partial)
    os.replace(partial, out)
    return sum(keep), len(keep)
