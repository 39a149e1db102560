"""Makes prompt files from a data set: each question once, in verl's columns, with a held-out part.

Which questions are held out follows from their own text, so that another order of the same rows
changes nothing. Ground truth is kept for grading; training never reads it. What was dropped, and
why, is counted and written beside the files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from algo.data.fingerprint import prompt_fingerprint
from algo.data.prompt_file import read_rows
from algo.data.sources import Question, Source
from algo.errors import ConfigurationError

_STRING = pa.string()
SCHEMA = pa.schema(
    [
        ("data_source", _STRING),
        ("prompt", pa.list_(pa.struct([("role", _STRING), ("content", _STRING)]))),
        ("ability", _STRING),
        ("reward_model", pa.struct([("style", _STRING), ("ground_truth", _STRING)])),
        (
            "extra_info",
            pa.struct(
                [
                    ("index", pa.int64()),
                    ("id", _STRING),
                    ("split", _STRING),
                    ("question", _STRING),
                ]
            ),
        ),
    ]
)


@dataclass(frozen=True)
class Recipe:
    """How questions become prompts and splits."""

    template: str
    """Holds `{question}` once; every other brace stays as it is."""
    system: str | None = None
    holdout: int = 0
    """So many questions with a known answer go to the validation file."""
    seed: int = 0
    max_chars: int | None = None
    """Questions with a longer prompt are left out."""
    data_source: str | None = None
    """In place of the source's own."""

    def __post_init__(self) -> None:
        if self.template.count("{question}") != 1:
            raise ConfigurationError("--template must hold {question} exactly once")


@dataclass
class Counts:
    """What became of the rows."""

    rows: int = 0
    without_question: int = 0
    not_unicode: int = 0
    """Questions with lone surrogates, which no parquet file or tokenizer takes."""
    duplicates: int = 0
    conflicting_answers: int = 0
    """Among the duplicates: those that state another answer than the first."""
    excluded: int = 0
    too_long: int = 0
    without_answer: int = 0
    """Kept; they cannot be held out, for nothing can grade them."""
    train: int = 0
    validation: int = 0
    longest_chars: int = 0


@dataclass(frozen=True)
class Prepared:
    """The rows of both files in the source's order, and the counts."""

    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    counts: Counts


class _Item(NamedTuple):
    question: Question
    messages: list[dict[str, str]]
    fingerprint: str


@dataclass
class _Collected:
    items: dict[str, _Item] = field(default_factory=dict)
    """By fingerprint, in the source's order."""
    disputed: set[str] = field(default_factory=set)
    """Fingerprints whose duplicates disagree about the answer."""


def prepare(
    source: Source,
    questions: Iterable[Question],
    recipe: Recipe,
    exclude: frozenset[str] = frozenset(),
) -> Prepared:
    """Turn questions into rows; those whose text is in `exclude` are left out.

    An evaluation source gives validation rows only. Raises `ConfigurationError` when more is to be
    held out than there are questions with an undisputed answer.
    """
    counts = Counts()
    collected = _collect(questions, recipe, exclude, counts)
    items = collected.items
    if source.evaluation:
        held_out = {key for key, item in items.items() if item.question.truth is not None}
    else:
        held_out = _draw(collected, recipe)
    rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for key, item in items.items():
        counts.without_answer += item.question.truth is None
        chosen = key in held_out
        if source.evaluation and not chosen:
            continue
        rows[chosen].append(_row(source, recipe, item, len(rows[chosen]), chosen))
    counts.train, counts.validation = len(rows[False]), len(rows[True])
    return Prepared(rows[False], rows[True], counts)


def write(
    prepared: Prepared,
    source: Source,
    recipe: Recipe,
    folder: Path,
    origin: Mapping[str, Any],
) -> list[Path]:
    """Write ``train.parquet``, ``val.parquet`` (``<name>.parquet`` of a benchmark) and a record of
    how they came about, with `origin` in it; returns the parquet files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = source.name if source.evaluation else "val"
    parts = {"train": prepared.train, name: prepared.validation}
    files = []
    for stem, rows in parts.items():
        if rows:
            files.append(folder / f"{stem}.parquet")
            write_rows(rows, files[-1])
    record = {
        "source": source.hub or "own data",
        "subset": source.subset,
        "splits": source.splits,
        "license": source.license,
        **origin,
        "recipe": asdict(recipe),
        "counts": asdict(prepared.counts),
    }
    about = folder / (f"{name}.json" if source.evaluation else "provenance.json")
    about.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return files


def origin_of(files: Sequence[Path], revision: str | None) -> dict[str, Any]:
    """Which copy of a data set was read: local files by checksum, or the hub's revision."""
    if not files:
        return {"revision": revision or "newest"}
    return {"files": {str(file): _sha256(file) for file in files}}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write `rows` so that `path` is at any moment absent, the old file, or the whole new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), partial)
    os.replace(partial, path)


def asked_in(files: Iterable[Path]) -> frozenset[str]:
    """The questions that prompt files hold, whatever their template, for `exclude`."""
    return frozenset(text for file in files for text in _asked(file))


def _asked(file: Path) -> Iterator[str]:
    for _, row in read_rows(file, ("prompt", "extra_info")):
        question = (row.get("extra_info") or {}).get("question")
        yield _normal(question or str(row["prompt"][-1].get("content")))


def _normal(text: str) -> str:
    return " ".join(text.split())


def _collect(
    questions: Iterable[Question], recipe: Recipe, exclude: frozenset[str], counts: Counts
) -> _Collected:
    collected = _Collected()
    for question in questions:
        counts.rows += 1
        messages = _messages(question, recipe)
        if messages is None:
            counts.without_question += 1
            continue
        if not all(_is_unicode(message["content"]) for message in messages):
            counts.not_unicode += 1
            continue
        key = prompt_fingerprint(messages)
        if key in collected.items:
            counts.duplicates += 1
            if collected.items[key].question.truth != question.truth:
                counts.conflicting_answers += 1
                collected.disputed.add(key)
            continue
        length = sum(len(message["content"]) for message in messages)
        if recipe.max_chars is not None and length > recipe.max_chars:
            counts.too_long += 1
        elif exclude and _normal(question.text or messages[-1]["content"]) in exclude:
            counts.excluded += 1
        else:
            counts.longest_chars = max(counts.longest_chars, length)
            collected.items[key] = _Item(question, messages, key)
    return collected


def _messages(question: Question, recipe: Recipe) -> list[dict[str, str]] | None:
    system = [] if recipe.system is None else [{"role": "system", "content": recipe.system}]
    if question.messages is not None:
        own = [
            {"role": str(message["role"]), "content": str(message.get("content") or "")}
            for message in question.messages
        ]
        if not own[-1]["content"].strip():
            return None
        return [*system, *(m for m in own if not (system and m["role"] == "system"))]
    if question.text is None or not question.text.strip():
        return None
    content = recipe.template.replace("{question}", question.text.strip())
    return [*system, {"role": "user", "content": content}]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _draw(collected: _Collected, recipe: Recipe) -> set[str]:
    candidates = [
        key
        for key, item in collected.items.items()
        if item.question.truth is not None and key not in collected.disputed
    ]
    if recipe.holdout > len(candidates):
        raise ConfigurationError(
            f"--holdout {recipe.holdout} is more than the {len(candidates)} questions whose answer "
            "is known and undisputed"
        )
    candidates.sort(key=lambda key: hashlib.sha256(f"{recipe.seed}:{key}".encode()).digest())
    return set(candidates[: recipe.holdout])


def _row(source: Source, recipe: Recipe, item: _Item, index: int, held_out: bool) -> dict[str, Any]:
    return {
        "data_source": recipe.data_source or source.data_source,
        "prompt": item.messages,
        "ability": source.ability,
        "reward_model": {"style": "rule", "ground_truth": item.question.truth},
        "extra_info": {
            "index": index,
            "id": item.question.key or item.fingerprint[:16],
            "split": "val" if held_out else "train",
            "question": item.question.text or item.messages[-1]["content"],
        },
    }
