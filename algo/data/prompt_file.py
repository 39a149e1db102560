"""Reads prompt files: parquet or JSON lines with verl's columns.

Needed is the column ``prompt`` (a list of chat messages with ``role`` and ``content``); used where
they exist are ``data_source`` and ``reward_model.ground_truth``. This module does not make or judge
files (`prepare`, `check`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from algo.data.fingerprint import prompt_fingerprint
from algo.errors import ConfigurationError

# Rows held in memory at a time: some 10 MB of long prompts.
_BATCH_ROWS = 2048
PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One row's prompt: chat messages, what they are found by, and what they are graded by."""

    row: int
    messages: Sequence[Mapping[str, Any]]
    fingerprint: str
    data_source: str | None = None
    ground_truth: str | None = None


def read_prompts(file: PathLike, prompt_key: str = "prompt") -> Iterator[PromptRow]:
    """The prompts of a file, row by row (numbered from 0).

    Raises `ConfigurationError` that names the file and the row or column at fault.
    """
    for row, values in read_rows(file, (prompt_key, "data_source", "reward_model")):
        messages = chat_messages(values.get(prompt_key))
        if messages is None:
            raise ConfigurationError(
                f"{file}, row {row}: column {prompt_key!r} holds no chat messages (a list of "
                "{role, content}): `ropd data check` lists every such row"
            )
        truth = (values.get("reward_model") or {}).get("ground_truth")
        yield PromptRow(
            row=row,
            messages=messages,
            fingerprint=prompt_fingerprint(messages),
            data_source=values.get("data_source"),
            ground_truth=None if truth is None else str(truth),
        )


def distinct_prompts(files: Iterable[PathLike], prompt_key: str = "prompt") -> dict[str, PromptRow]:
    """The first row of every different prompt in `files`, by fingerprint, in file order."""
    found: dict[str, PromptRow] = {}
    for file in files:
        for prompt in read_prompts(file, prompt_key):
            found.setdefault(prompt.fingerprint, prompt)
    return found


def uids_by_fingerprint(files: Iterable[PathLike]) -> dict[str, str]:
    """``extra_info.index`` of every different prompt, as the official release names its rows."""
    found: dict[str, str] = {}
    for file in files:
        for row, values in read_rows(file, ("prompt", "extra_info")):
            index = (values.get("extra_info") or {}).get("index", row)
            found.setdefault(prompt_fingerprint(values.get("prompt")), str(index))
    return found


def read_rows(
    file: PathLike, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, values) of a parquet or JSON-lines file; the first of `columns` must exist."""
    path = Path(file)
    if path.suffix == ".parquet":
        rows = _parquet_rows(path, columns)
    elif path.suffix in (".jsonl", ".json"):
        rows = _json_rows(path)
    else:
        raise ConfigurationError(f"{path}: give a .parquet or .jsonl file")
    try:
        yield from enumerate(rows)
    except FileNotFoundError:
        raise ConfigurationError(f"data file {path} does not exist") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigurationError(f"data file {path} cannot be read: {error}") from None


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        held = file.schema_arrow.names
        if columns is not None and columns[0] not in held:
            raise ConfigurationError(
                f"data file {path} has no column {columns[0]!r}, only {', '.join(held)}: "
                "`ropd data prepare` makes files with the needed columns"
            )
        wanted = None if columns is None else [name for name in columns if name in held]
        for batch in file.iter_batches(_BATCH_ROWS, columns=wanted):
            yield from batch.to_pylist()


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
            except ValueError as error:
                raise ConfigurationError(f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ConfigurationError(f"{path}, line {number}: not a JSON object")
            yield row


def chat_messages(value: object) -> list[dict[str, Any]] | None:
    """`value` if it is a non-empty list of messages that each have a role, else None."""
    if not isinstance(value, list) or not value:
        return None
    chat = all(isinstance(message, dict) and message.get("role") for message in value)
    return value if chat else None
