"""The problems of an evaluation: prompt files with ground truth, as `ropd data prepare` makes them.

A set is named `NAME` (its file is `NAME.parquet` below the data folder) or `NAME=FILE`. Which rule
grades its answers follows from the rows' `data_source`, as in validation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algo.data.prompt_file import PromptRow, read_prompts
from algo.errors import ConfigurationError
from algo.grading.ground_truth import can_grade

JUDGED = ("healthbench",)
"""Data sources whose answers a grader judges, by criteria in place of a right answer."""


@dataclass(frozen=True)
class EvalProblem:
    """One question of a set. `key` is the prompt's fingerprint, the same in every evaluation."""

    set: str
    key: str
    messages: Sequence[Mapping[str, Any]]
    data_source: str
    truth: str


def read_sets(names: Iterable[str], folder: Path) -> dict[str, list[EvalProblem]]:
    """The problems of each set, in file order; `names` are `NAME` or `NAME=FILE`.

    Raises `ConfigurationError` for a file that is missing, has no rows, holds a prompt twice, or
    holds a row that cannot be graded.
    """
    files: dict[str, Path] = {}
    for name in names:
        label, _, file = name.partition("=")
        if not label or label in files:
            raise ConfigurationError(
                f"--set {name!r}: give each set once, as NAME or NAME=FILE, separated by commas"
            )
        files[label] = Path(file) if file else folder / f"{label}.parquet"
    if not files:
        raise ConfigurationError("--set names no set: give NAME or NAME=FILE, separated by commas")
    return {label: _read(label, path) for label, path in files.items()}


def _read(name: str, path: Path) -> list[EvalProblem]:
    if not path.exists():
        raise ConfigurationError(
            f"set {name}: {path} does not exist: make it with `ropd data prepare {name} --out "
            f"{path.parent}`, or give --set {name}=FILE"
        )
    problems: dict[str, EvalProblem] = {}
    rows: dict[str, int] = {}
    for prompt in read_prompts(path):
        if prompt.fingerprint in problems:
            raise ConfigurationError(
                f"{path}: row {prompt.row} repeats the prompt of row {rows[prompt.fingerprint]}; a "
                "score counts every problem once: leave one of them out"
            )
        rows[prompt.fingerprint] = prompt.row
        problems[prompt.fingerprint] = _problem(name, path, prompt)
    if not problems:
        raise ConfigurationError(f"set {name}: {path} holds no rows")
    return list(problems.values())


def _problem(name: str, path: Path, prompt: PromptRow) -> EvalProblem:
    source, truth = prompt.data_source or "", (prompt.ground_truth or "").strip()
    if not truth or not (can_grade(source) or source in JUDGED):
        fault = "no ground truth" if not truth else f"data_source {source!r}, which no rule grades"
        raise ConfigurationError(
            f"{path}, row {prompt.row}: {fault}; `ropd data check --validation {path}` lists all "
            "such rows"
        )
    # Arrow fills keys that only some messages have with nulls, which endpoints refuse.
    messages = [{k: v for k, v in each.items() if v is not None} for each in prompt.messages]
    return EvalProblem(name, prompt.fingerprint, messages, source, truth)


def digest(problems: Iterable[EvalProblem]) -> str:
    """sha256 over prompts and right answers, whatever their order: whether two sets are the same.

    The prompts hold the template, so another template is another set.
    """
    lines = sorted(f"{each.key} {each.data_source} {each.truth}\n" for each in problems)
    return hashlib.sha256("".join(lines).encode("utf-8", "replace")).hexdigest()
