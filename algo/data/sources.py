"""The data sets of the paper: where each lies, under which license, and how its rows read.

A source turns a row of its own columns into a `Question`; everything after that (template, splits,
verl's columns) is the same for all and is `prepare`'s part. Rows come from the Hugging Face hub or
from a local copy (parquet, JSON lines, csv); nothing is shipped with the project.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from algo.data.prompt_file import chat_messages, read_rows
from algo.errors import ConfigurationError

BOXED = "{question}\n\nReason step by step and put the final answer within \\boxed{}."
CHOICE = "{question}\n\nReason step by step and end with a line of the form `Answer: LETTER`."
PLAIN = "{question}"


class Question(NamedTuple):
    """What a row asks: text or whole chat messages, the right answer if known, the source's id."""

    text: str | None
    truth: str | None
    key: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Source:
    """A data set: how to get it, what may be done with it, and how a row becomes a `Question`."""

    name: str
    read: Callable[[Mapping[str, Any]], Question]
    columns: tuple[str, ...]
    """Columns without which a file is not this data set."""
    data_source: str
    """Written to every row; its prefix selects the grading rule (`ground_truth`)."""
    ability: str
    template: str
    hub: str
    subset: str | None = None
    splits: tuple[str, ...] = ("train",)
    license: str = "none stated on its card"
    expected: str = ""
    """How many questions there should be, in words."""
    evaluation: bool = False
    """A benchmark: the whole set becomes one validation file, and is never trained on."""


_DAPO_OPENING = re.compile(r"\ASolve the following math problem.*?\n\n", re.DOTALL)
_DAPO_CLOSING = re.compile(r"\n\nRemember to put your answer[^\n]*\Z")


def _dapo(row: Mapping[str, Any]) -> Question:
    # The data set wraps every problem in one instruction, which our own template replaces.
    messages = chat_messages(row["prompt"])
    if messages is None:
        return Question(None, None)
    text = str(messages[-1].get("content") or "")
    text = _DAPO_CLOSING.sub("", _DAPO_OPENING.sub("", text))
    extra, model = row.get("extra_info") or {}, row.get("reward_model") or {}
    return Question(text, _text(model.get("ground_truth")), _text(extra.get("index")))


def _rar(row: Mapping[str, Any]) -> Question:
    return Question(_text(row["question"]), _text(row.get("reference_answer")))


def _columns(question: str, answer: str, key: str) -> Callable[[Mapping[str, Any]], Question]:
    def read(row: Mapping[str, Any]) -> Question:
        return Question(_text(row[question]), _text(row.get(answer)), _text(row.get(key)))

    return read


_GPQA_OPTIONS = ("Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3)))


def _gpqa(row: Mapping[str, Any]) -> Question:
    """Four options in an order drawn from the question's own text, so that it never changes."""
    question = _text(row["Question"])
    options = [_text(row[name]) for name in _GPQA_OPTIONS]
    if question is None or None in options:
        return Question(None, None)
    order = list(range(4))
    random.Random(hashlib.sha256(question.encode()).digest()).shuffle(order)
    lines = [f"{letter}) {options[i]}" for letter, i in zip("ABCD", order, strict=True)]
    return Question(
        "\n".join([question, "", *lines]), "ABCD"[order.index(0)], _text(row.get("Record ID"))
    )


def _healthbench(row: Mapping[str, Any]) -> Question:
    """A conversation, and in place of a right answer the criteria of its replies."""
    messages = chat_messages(row["prompt"])
    criteria = [
        {"criterion": each["criterion"], "points": each["points"], "tags": list(each["tags"] or [])}
        for each in row["rubrics"] or []
    ]
    truth = json.dumps(criteria, ensure_ascii=False) if criteria else None
    return Question(None, truth, _text(row.get("prompt_id")), messages)


def _own(row: Mapping[str, Any]) -> Question:
    """`question` (text) or `prompt` (text or chat messages); `answer` and `id` where known."""
    asked = row.get("prompt") if row.get("question") is None else row["question"]
    truth, key = _text(row.get("answer")), _text(row.get("id"))
    messages = chat_messages(asked)
    if messages is not None:
        return Question(None, truth, key, messages)
    return Question(asked if isinstance(asked, str) else None, truth, key)


def _text(value: object) -> str | None:
    """The text of a cell; None for nothing, blanks, and what csv readers write for nothing."""
    text = "" if value is None else str(value).strip()
    return None if text in ("", "None", "nan") else text


_MATHARENA = "CC-BY-NC-SA-4.0"

SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source(
            "math",
            _dapo,
            ("prompt",),
            "dapo_math",
            "math",
            BOXED,
            hub="BytedTsinghua-SIA/DAPO-Math-17k",
            license="Apache-2.0",
            expected="about 17,200 to 17,400",
        ),
        Source(
            "science",
            _rar,
            ("question",),
            "rar_science",
            "science",
            PLAIN,
            hub="ScaleAI/RaR-Science",
            expected="about 18,300",
        ),
        Source(
            "medical",
            _rar,
            ("question",),
            "rar_medicine",
            "medicine",
            PLAIN,
            hub="ScaleAI/RaR-Medicine",
            expected="about 17,900",
        ),
        Source("own", _own, (), "own", "own", PLAIN, hub=""),
        Source(
            "aime24",
            _columns("Problem", "Answer", "ID"),
            ("Problem", "Answer"),
            "aime24",
            "math",
            BOXED,
            hub="Maxwell-Jia/AIME_2024",
            license="MIT",
            expected="30",
            evaluation=True,
        ),
        *(
            Source(
                name,
                _columns("problem", "answer", "problem_idx"),
                ("problem", "answer"),
                name,
                "math",
                BOXED,
                hub=hub,
                license=_MATHARENA,
                expected="30",
                evaluation=True,
            )
            for name, hub in (
                ("aime25", "MathArena/aime_2025"),
                ("hmmt25_feb", "MathArena/hmmt_feb_2025"),
                ("hmmt25_nov", "MathArena/hmmt_nov_2025"),
            )
        ),
        Source(
            "gpqa_diamond",
            _gpqa,
            ("Question", *_GPQA_OPTIONS),
            "gpqa_diamond",
            "science",
            CHOICE,
            hub="Idavidrein/gpqa",
            subset="gpqa_diamond",
            license="CC-BY-4.0; access is granted on its page",
            expected="198",
            evaluation=True,
        ),
        Source(
            "healthbench",
            _healthbench,
            ("prompt", "rubrics"),
            "healthbench",
            "medicine",
            PLAIN,
            hub="openai/healthbench",
            license="MIT",
            expected="5,000 (1,000 in its hard part)",
            evaluation=True,
        ),
    )
}


def source_named(name: str) -> Source:
    if name in SOURCES:
        return SOURCES[name]
    raise ConfigurationError(f"no data set {name!r}: choose one of {', '.join(SOURCES)}")


def source_rows(
    source: Source, files: Sequence[Path], revision: str | None = None
) -> Iterator[Mapping[str, Any]]:
    """The rows of local `files`, or of the hub (at a branch, tag or commit) when there are none.

    Raises `ConfigurationError` when they cannot be read or lack the source's columns.
    """
    rows = _local_rows(files) if files else _hub_rows(source, revision)
    for number, row in enumerate(rows):
        missing = [name for name in source.columns if name not in row]
        if missing:
            raise ConfigurationError(
                f"row {number} of {source.name} has no column {', '.join(missing)} but "
                f"{', '.join(row)}: is this a copy of {source.hub}?"
            )
        yield row


def _local_rows(files: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    for file in files:
        if file.suffix != ".csv":
            yield from (row for _, row in read_rows(file))
            continue
        try:
            with file.open(encoding="utf-8-sig", newline="") as opened:
                yield from csv.DictReader(opened)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigurationError(f"data file {file} cannot be read: {error}") from None


def _hub_rows(source: Source, revision: str | None) -> Iterator[Mapping[str, Any]]:
    if not source.hub:
        raise ConfigurationError("own data needs --source FILE (parquet, JSON lines or csv)")
    try:
        from datasets import load_dataset
    except ImportError:
        raise ConfigurationError(
            f"the package datasets is not installed: install it, or give a local copy of "
            f"{source.hub} with --source FILE"
        ) from None
    for split in source.splits:
        try:
            loaded: Any = load_dataset(source.hub, source.subset, split=split, revision=revision)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigurationError(
                f"cannot load {source.hub} from the hub ({reason}): log in if it asks for "
                "consent, or give a local copy with --source FILE"
            ) from None
        for table in loaded.with_format("arrow").iter(batch_size=1000):
            yield from table.to_pylist()
