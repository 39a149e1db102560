"""Counts what happened to groups between two readings, for the trainer's trackers.

Every reading has the same keys, but for `pass_rate/<category>`, so that a metric that stays zero
shows as zero. Names are given under `ropd/`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import sqrt
from statistics import fmean
from typing import Final

from algo.ropd.client import Transcript
from algo.ropd.endpoint import Endpoint
from algo.ropd.errors import FailureKind
from algo.ropd.group import Group, Rule, ScoredGroup

TIE: Final = 1e-9
"""Rewards of a group that differ by less teach nothing."""
_MOST_CATEGORIES: Final = 8


def group_metrics(group: Group, scored: ScoredGroup, teacher_answers: int) -> dict[str, float]:
    """What one judged group adds to the trainer's metrics; `teacher_answers` is the effective m."""
    scores = scored.scores
    figures = {
        "reward_mean": fmean(scores),
        "reward_std": _spread(scores),
        "tie_rate": float(max(scores) - min(scores) < TIE),
        "response_chars": fmean(len(rollout.text) for rollout in group.rollouts),
        "teacher_answers": float(teacher_answers),
    }
    for rule in Rule:
        figures[f"rule/{rule.value}"] = scored.rules.count(rule) / len(scores)
    if scored.rubrics:
        figures["criteria"] = fmean(len(rubric.criteria) for rubric in scored.rubrics)
    if scored.teacher_scores:
        figures["teacher_mean"] = fmean(scored.teacher_scores)
        figures["margin"] = figures["teacher_mean"] - figures["reward_mean"]
        figures["teacher_beaten_rate"] = float(max(scores) > max(scored.teacher_scores))
    return figures


class Tally:
    """Figures since the last `drain`."""

    _AVERAGED: Final = (
        "reward_mean",
        "reward_std",
        "tie_rate",
        "response_chars",
        "teacher_answers",
        *(f"rule/{rule.value}" for rule in Rule),
        "criteria",
        "teacher_mean",
        "margin",
        "teacher_beaten_rate",
    )

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._prices = {endpoint.role: endpoint.settings.prices for endpoint in endpoints}
        self._clear()

    def judged(self, scored: ScoredGroup, transcript: Transcript, seconds: float) -> None:
        """Count a group whose judging took `seconds`."""
        self._judged += 1
        self._seconds.append(seconds)
        for name, value in scored.metrics.items():
            self._figures[name].append(value)
        for rubric_of, verdict in zip(scored.rubric_of, scored.verdicts, strict=True):
            if rubric_of is None or verdict is None:
                continue
            for criterion, passed in zip(scored.rubrics[rubric_of].criteria, verdict, strict=True):
                self._passes[_slug(criterion.category)].append(passed)
        self._spent(transcript)

    def failed(self, kind: FailureKind, transcript: Transcript) -> None:
        self._failures[kind] += 1
        self._spent(transcript)

    def drain(self, engine: Mapping[str, float]) -> dict[str, float]:
        """All figures under their names, together with the request engine's; starts anew."""
        metrics = {
            "groups_judged": float(self._judged),
            "groups_failed": float(self._failures.total()),
            **{f"failed/{kind.value}": float(self._failures[kind]) for kind in FailureKind},
            **{name: _mean(self._figures[name]) for name in self._AVERAGED if self._figures[name]},
            **{f"pass_rate/{name}": _mean(values) for name, values in self._most_used()},
            **{f"judge/{name}": value for name, value in self._judge_figures(engine).items()},
        }
        self._clear()
        return {f"ropd/{name}": value for name, value in metrics.items()}

    def _most_used(self) -> list[tuple[str, list[bool]]]:
        """The categories with most decisions: a rubric may name any, a tracker has few rows."""
        by_size = sorted(self._passes.items(), key=lambda entry: -len(entry[1]))
        return by_size[:_MOST_CATEGORIES]

    def _judge_figures(self, engine: Mapping[str, float]) -> dict[str, float]:
        figures = dict(engine)
        timed = {"group": self._seconds, **self._latencies}
        for stage, seconds in timed.items():
            if seconds:
                figures[f"{stage}_latency_p50_s"] = quantile(seconds, 0.5)
                figures[f"{stage}_latency_p95_s"] = quantile(seconds, 0.95)
        return figures | dict(self._usage)

    def _spent(self, transcript: Transcript) -> None:
        for exchange in transcript:
            self._usage["cut_characters"] += exchange.cut_characters
            reply = exchange.reply
            if reply is None:
                continue
            self._latencies[exchange.stage].append(reply.latency_s)
            prices = self._prices[exchange.stage]
            cached = reply.cached_tokens or 0
            fresh = (reply.prompt_tokens or 0) - cached
            written = reply.completion_tokens or 0
            self._usage["tokens_in"] += fresh + cached
            self._usage["tokens_cached"] += cached
            self._usage["tokens_out"] += written
            self._usage["cost"] += (
                fresh * prices.input + cached * prices.cached + written * prices.output
            ) / 1e6

    def _clear(self) -> None:
        self._judged = 0
        self._failures: Counter[FailureKind] = Counter()
        self._figures: defaultdict[str, list[float]] = defaultdict(list)
        self._passes: defaultdict[str, list[bool]] = defaultdict(list)
        self._seconds: list[float] = []
        self._latencies: defaultdict[str, list[float]] = defaultdict(list)
        names = ("tokens_in", "tokens_cached", "tokens_out", "cost", "cut_characters")
        self._usage = dict.fromkeys(names, 0.0)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def _spread(values: Sequence[float]) -> float:
    """The population standard deviation, as in Algorithm 1."""
    mean = fmean(values)
    return sqrt(fmean((value - mean) ** 2 for value in values))


@lru_cache(maxsize=1024)
def _slug(category: str) -> str:
    return re.sub(r"\W+", "_", category.lower()).strip("_") or "none"
