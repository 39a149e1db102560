"""What an index holds, counted: coverage, answers a prompt, lengths, repetition, agreement.

Reads every answer once. Grading against ground truth is the costly part and covers a sample spread
evenly over the index.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from algo.data.prompt_file import PromptRow
from algo.grading.ground_truth import can_grade, grade
from algo.teacher.teacher_index import AnswerStatus, TeacherAnswer, TeacherIndex
from algo.thinking import holds_answer


@dataclass(frozen=True)
class Lengths:
    """Characters shown of usable answers: extremes, quantiles, how many up to each power of two."""

    smallest: int = 0
    median: int = 0
    p95: int = 0
    largest: int = 0
    histogram: Mapping[int, int] = field(default_factory=dict)
    """Upper bound (a power of two) -> answers; bounds without answers are left out."""


@dataclass(frozen=True)
class IndexStats:
    """`ropd teacher stats`. Counts are of answers unless they say prompts."""

    prompts: int
    answers: int
    by_status: Mapping[str, int]
    by_model: Mapping[str, int]
    usable_per_prompt: Mapping[int, int]
    """Usable answers of a prompt -> prompts."""
    distinct_per_prompt: float
    """Mean number of different usable texts of a prompt, thinking taken off."""
    shown_per_prompt: float
    """The same, as far as `m` of them are shown: the effective m (`ropd/teacher_answers`)."""
    prompts_repeating: int
    """Prompts with at least two usable answers of which two are the same text."""
    lengths: Lengths
    prompt_tokens: int
    completion_tokens: int
    data_prompts: int | None = None
    """Different prompts of the data files, None without one."""
    data_covered: int | None = None
    """Those of them with at least `m` usable answers."""
    not_in_data: int | None = None
    """Prompts of the index that the data files do not hold."""
    graded: int = 0
    agreement: float | None = None
    """Share of the graded answers that agree with ground truth."""


def index_stats(
    index: TeacherIndex,
    prompts: Mapping[str, PromptRow] | None = None,
    m: int = 4,
    grade_at_most: int = 0,
) -> IndexStats:
    """Count `index`; with `prompts` (of data files, by fingerprint) also against them.

    Raises `TeacherIndexError` for a damaged record.
    """
    by_status: Counter[str] = Counter()
    by_model: Counter[str] = Counter()
    usable: Counter[str] = Counter()
    texts: defaultdict[str, set[int]] = defaultdict(set)
    lengths: list[int] = []
    tokens = [0, 0]
    for answer in index:
        by_status[answer.status.value] += 1
        by_model[answer.model] += 1
        tokens[0] += answer.prompt_tokens or 0
        tokens[1] += answer.completion_tokens or 0
        served = answer.status is AnswerStatus.USABLE and holds_answer(answer.text, answer.thinks)
        usable[answer.fingerprint] += served
        if served:
            texts[answer.fingerprint].add(hash(answer.shown))
            lengths.append(len(answer.shown))
    scores = _scores(index, prompts, grade_at_most) if prompts and grade_at_most else []
    known = None if prompts is None else prompts.keys()
    return IndexStats(
        prompts=len(usable),
        answers=len(index),
        by_status=dict(by_status),
        by_model=dict(by_model),
        usable_per_prompt=dict(sorted(Counter(usable.values()).items())),
        distinct_per_prompt=fmean(map(len, texts.values())) if texts else 0.0,
        shown_per_prompt=fmean(min(m, len(each)) for each in texts.values()) if texts else 0.0,
        prompts_repeating=sum(len(different) < usable[key] for key, different in texts.items()),
        lengths=_lengths(lengths),
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        data_prompts=None if known is None else len(known),
        data_covered=None if known is None else sum(usable[key] >= m for key in known),
        not_in_data=None if known is None else len(usable.keys() - known),
        graded=len(scores),
        agreement=fmean(scores) if scores else None,
    )


def _lengths(lengths: list[int]) -> Lengths:
    if not lengths:
        return Lengths()
    lengths.sort()
    bounds = Counter(1 << (length - 1).bit_length() if length else 0 for length in lengths)
    return Lengths(
        smallest=lengths[0],
        median=lengths[len(lengths) // 2],
        p95=lengths[len(lengths) * 95 // 100],
        largest=lengths[-1],
        histogram=dict(sorted(bounds.items())),
    )


def _scores(index: TeacherIndex, prompts: Mapping[str, PromptRow], at_most: int) -> list[float]:
    gradable = {key: row for key, row in prompts.items() if _gradable(row)}
    held = sum(index.count(key) for key in gradable)
    step = max(1, -(-held // at_most))
    answers = _usable_of(index, gradable)
    return [
        grade(row.data_source or "", answer.text, row.ground_truth)
        for i, (row, answer) in enumerate(answers)
        if i % step == 0
    ]


def _usable_of(
    index: TeacherIndex, prompts: Mapping[str, PromptRow]
) -> Iterable[tuple[PromptRow, TeacherAnswer]]:
    for key, row in prompts.items():
        for answer in index.usable(key):
            yield row, answer


def _gradable(row: PromptRow) -> bool:
    return bool(row.ground_truth) and row.data_source is not None and can_grade(row.data_source)
