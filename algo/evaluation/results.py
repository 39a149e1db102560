"""From stored answers to scores: every figure with its denominator. Pure, but for the grading.

An answer is right, wrong, states nothing that could be graded, or was cut off; the last three score
0 and are counted apart. A failed request is no answer: it enters no score, and is counted. The
score of a set is over the problems with at least one answer, each by the mean of what it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import fmean

from algo.evaluation.healthbench import criteria_of, health_score, scores_by_tag
from algo.evaluation.log import Answer, Held, Sample
from algo.evaluation.problems import EvalProblem
from algo.evaluation.statistics import (
    Interval,
    majority,
    mean_interval,
    pass_at,
    sampling_error,
)
from algo.grading.ground_truth import read_answer
from algo.grading.math_equivalence import MOST_PROCESSES
from algo.llm.http.wire import CUT_OFF
from algo.thinking import is_unclosed


class Outcome(StrEnum):
    """What became of a sample that was answered."""

    RIGHT = "right"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    """Nothing in it is stated as the answer."""
    GRADED = "graded"
    """A HealthBench reply with all its criteria decided; its score is no yes or no."""
    UNGRADED = "ungraded"
    """One with criteria that nobody has decided; it has no score."""
    CUT_OFF = "cut_off"
    """It reached `max_tokens`, or its thinking never ended: nothing in it is a final answer."""


@dataclass(frozen=True)
class Graded:
    """One sample's outcome.

    `stated` is its final answer in a form that is equal for equal answers, None for none; `tokens`
    are those of the whole answer, None where they are not known; `by_tag` are the scores of a
    HealthBench reply's axes and themes.
    """

    sample: Sample
    outcome: Outcome
    score: float | None
    stated: str | None
    tokens: int | None
    by_tag: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SetResult:
    """One set's figures.

    `score` is None where no problem has an answer. `pass_at` is by k, over the problems of which
    all `samples` were answered. `failures` are by kind.
    """

    name: str
    problems: int
    answered_problems: int
    samples: int
    """Asked for a problem."""
    outcomes: Mapping[Outcome, int]
    failures: Mapping[str, int]
    missing: int
    """Neither answered nor failed yet."""
    score: Interval | None
    sampling_error: float | None
    pass_at: Mapping[int, float]
    majority: float | None
    """The mean score of what most samples of a problem state, over the same problems."""
    mean_tokens: float | None
    by_tag: Mapping[str, float]
    """Of HealthBench: the mean score by axis and theme, clipped to [0, 1]."""
    by_problem: Mapping[str, float]
    """The mean score of each answered problem, by its key."""

    @property
    def asked(self) -> int:
        return self.problems * self.samples

    @property
    def answered(self) -> int:
        return sum(self.outcomes.values())

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


def grade_all(held: Held, decided: Mapping[Sample, tuple[bool, ...] | None]) -> list[Graded]:
    """The outcome of every stored answer, in the order of storing. Blocks as `read_answer` does.

    `decided` has the HealthBench replies (`judging.decided_samples`).
    """

    def graded(sample: Sample) -> Graded:
        answer = held.answers[sample]
        problem = held.problems[sample.set][sample.key]
        if is_cut_off(answer):
            return Graded(sample, Outcome.CUT_OFF, 0.0, None, answer.completion_tokens)
        if sample in decided:
            return _judged(sample, problem, decided[sample], answer.completion_tokens)
        right, stated = read_answer(problem.data_source, answer.text, problem.truth)
        outcome = Outcome.RIGHT if right else Outcome.WRONG
        if stated is None:
            outcome = Outcome.NO_ANSWER
        return Graded(sample, outcome, float(right), stated, answer.completion_tokens)

    # Mathematical rules wait for processes of their own, which compare side by side.
    with ThreadPoolExecutor(MOST_PROCESSES) as threads:
        return list(threads.map(graded, held.answers))


def is_cut_off(answer: Answer) -> bool:
    """Whether an answer reached its limit, or its thinking never ended."""
    return answer.finish_reason == CUT_OFF or is_unclosed(answer.text)


def _judged(
    sample: Sample, problem: EvalProblem, met: tuple[bool, ...] | None, tokens: int | None
) -> Graded:
    if met is None:
        return Graded(sample, Outcome.UNGRADED, None, None, tokens)
    criteria = criteria_of(problem)
    score, by_tag = health_score(criteria, met), scores_by_tag(criteria, met)
    return Graded(sample, Outcome.GRADED, score, None, tokens, by_tag)


def set_results(held: Held, graded: Iterable[Graded], samples: int) -> list[SetResult]:
    """The figures of every set at `samples` a problem; further stored samples are left out."""
    by_set: dict[str, list[Graded]] = {name: [] for name in held.problems}
    for each in graded:
        if each.sample.number < samples:
            by_set[each.sample.set].append(each)
    return [_set_result(held, name, rows, samples) for name, rows in by_set.items()]


def _set_result(held: Held, name: str, rows: Sequence[Graded], samples: int) -> SetResult:
    by_problem: dict[str, list[Graded]] = {}
    for each in rows:
        by_problem.setdefault(each.sample.key, []).append(each)
    scores = {
        key: known
        for key, own in by_problem.items()
        if (known := [each.score for each in own if each.score is not None])
    }
    failures = Counter(
        failure.kind
        for sample, failure in held.failures.items()
        if sample.set == name and sample.number < samples
    )
    means = {key: fmean(own) for key, own in scores.items()}
    judged = any(each.outcome in (Outcome.GRADED, Outcome.UNGRADED) for each in rows)
    whole = [own for own in by_problem.values() if len(own) == samples and not judged]
    tokens = [each.tokens for each in rows if each.tokens is not None]
    problems = len(held.problems[name])
    return SetResult(
        name=name,
        problems=problems,
        answered_problems=len(scores),
        samples=samples,
        outcomes={outcome: sum(r.outcome is outcome for r in rows) for outcome in Outcome},
        failures=dict(sorted(failures.items())),
        missing=problems * samples - len(rows) - failures.total(),
        score=_interval(list(means.values()), clipped=judged) if means else None,
        sampling_error=sampling_error(list(scores.values())),
        pass_at={
            k: fmean(pass_at(k, samples, _right(own)) for own in whole)
            for k in _powers(samples)
            if whole
        },
        majority=fmean(map(_majority, whole)) if whole else None,
        mean_tokens=fmean(tokens) if tokens else None,
        by_tag=_by_tag(rows),
        by_problem=means,
    )


def _interval(means: Sequence[float], *, clipped: bool) -> Interval:
    interval = mean_interval(means)
    if not clipped:
        return interval
    low, high = interval.low, interval.high
    return replace(
        interval,
        mean=_clipped(interval.mean),
        low=None if low is None else _clipped(low),
        high=None if high is None else _clipped(high),
    )


def _clipped(score: float) -> float:
    return min(1.0, max(0.0, score))


def _by_tag(rows: Sequence[Graded]) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for each in rows:
        for tag, score in each.by_tag.items():
            scores.setdefault(tag, []).append(score)
    return {tag: _clipped(fmean(own)) for tag, own in sorted(scores.items())}


def _right(answers: Sequence[Graded]) -> int:
    return sum(each.outcome is Outcome.RIGHT for each in answers)


def _majority(answers: Sequence[Graded]) -> float:
    return majority([(each.stated, each.score or 0.0) for each in answers])


def _powers(samples: int) -> list[int]:
    """1, 2, 4, ... up to `samples`."""
    return [1 << exponent for exponent in range(samples.bit_length())]
