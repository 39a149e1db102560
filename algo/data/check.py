"""Says what is wrong with a prompt file, by row and column.

A fault makes rows unusable for training or grading; a remark is worth knowing and stops nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algo.data.fingerprint import prompt_fingerprint
from algo.data.prompt_file import chat_messages, read_rows
from algo.grading.ground_truth import can_grade

_ROLES = {"system", "user", "assistant", "tool"}


@dataclass(frozen=True)
class RowFinding:
    """One thing about one row (numbered from 0)."""

    row: int
    column: str
    what: str
    fault: bool = True

    def __str__(self) -> str:
        kind = "" if self.fault else "remark: "
        return f"row {self.row}, {self.column}: {kind}{self.what}"


def check_file(
    file: Path, *, validation: bool = False, max_chars: int | None = None
) -> tuple[int, list[RowFinding]]:
    """The number of rows, and everything found in them.

    With `validation`, rows must be gradable against ground truth. Raises `ConfigurationError` when
    the file cannot be read or has no column ``prompt``.
    """
    findings: list[RowFinding] = []
    first_with: dict[str, int] = {}
    indices: dict[object, int] = {}
    rows = 0
    columns = ("prompt", "data_source", "ability", "reward_model", "extra_info")
    for row, values in read_rows(file, columns):
        rows += 1
        findings += _prompt(row, values, max_chars, first_with)
        findings += _grading(row, values, validation)
        findings += _index(row, values, indices)
    return rows, findings


def _prompt(
    row: int, values: dict[str, Any], max_chars: int | None, first_with: dict[str, int]
) -> Iterator[RowFinding]:
    messages = chat_messages(values.get("prompt"))
    if messages is None:
        yield RowFinding(row, "prompt", "not a list of chat messages with role and content")
        return
    for number, message in enumerate(messages):
        where = f"prompt[{number}]"
        if message["role"] not in _ROLES:
            yield RowFinding(row, where, f"role {message['role']!r} is none of {sorted(_ROLES)}")
        if not isinstance(message.get("content"), str):
            yield RowFinding(row, where, "content is not text")
        elif not message["content"].strip():
            yield RowFinding(row, where, "content is empty")
    if messages[-1]["role"] != "user":
        yield RowFinding(row, "prompt", f"ends with a {messages[-1]['role']} message, not a user's")
    length = sum(len(str(message.get("content") or "")) for message in messages)
    if max_chars is not None and length > max_chars:
        yield RowFinding(row, "prompt", f"{length} characters, more than {max_chars}")
    first = first_with.setdefault(prompt_fingerprint(messages), row)
    if first != row:
        yield RowFinding(row, "prompt", f"the same prompt as row {first}", fault=False)


def _grading(row: int, values: dict[str, Any], validation: bool) -> Iterator[RowFinding]:
    source = values.get("data_source")
    if not source:
        yield RowFinding(row, "data_source", "missing")
    elif validation and not can_grade(source):
        yield RowFinding(row, "data_source", f"no rule grades {source!r}")
    truth = (values.get("reward_model") or {}).get("ground_truth")
    if truth is None or not str(truth).strip():
        yield RowFinding(row, "reward_model.ground_truth", "missing", fault=validation)


def _index(row: int, values: dict[str, Any], indices: dict[object, int]) -> Iterator[RowFinding]:
    index = (values.get("extra_info") or {}).get("index")
    if index is None:
        yield RowFinding(row, "extra_info.index", "missing", fault=False)
    elif (first := indices.setdefault(index, row)) != row:
        yield RowFinding(row, "extra_info.index", f"{index!r}, as in row {first}", fault=False)
