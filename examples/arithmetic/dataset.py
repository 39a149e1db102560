"""Writes the problems as the parquet files that verl reads.

Both files have one schema, so that arrow, pandas and `datasets` load them alike. A validation row
carries how it is to be sampled in `extra_info.sampling`; a training row has null there, for the
run's configuration decides. This module does not draw problems (`problems`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from examples.arithmetic.problems import DATA_SOURCE, GREEDY_DATA_SOURCE, Problem

SAMPLED: Mapping[str, float] = {"temperature": 1.0, "top_p": 1.0}
GREEDY: Mapping[str, float] = {"temperature": 0.0, "top_p": 1.0}

SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        (
            "extra_info",
            pa.struct(
                [
                    ("index", pa.int64()),
                    ("split", pa.string()),
                    (
                        "sampling",
                        pa.struct([("temperature", pa.float64()), ("top_p", pa.float64())]),
                    ),
                ]
            ),
        ),
    ]
)


def train_rows(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    return [_row(p, i, "train", DATA_SOURCE, None) for i, p in enumerate(problems)]


def validation_rows(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Each problem twice, sampled then greedy: 2 x len(problems) rows with distinct indices."""
    sampled = [_row(p, i, "val", DATA_SOURCE, SAMPLED) for i, p in enumerate(problems)]
    greedy = [
        _row(p, len(problems) + i, "val", GREEDY_DATA_SOURCE, GREEDY)
        for i, p in enumerate(problems)
    ]
    return sampled + greedy


def write_parquet(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write `rows` so that `path` is either absent, the old file, or the whole new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), partial)
    os.replace(partial, path)


def _row(
    problem: Problem,
    index: int,
    split: str,
    data_source: str,
    sampling: Mapping[str, float] | None,
) -> dict[str, Any]:
    return {
        "data_source": data_source,
        "prompt": problem.messages,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": {"index": index, "split": split, "sampling": sampling},
    }
