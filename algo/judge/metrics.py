"""Counts what happened to groups between two readings, for the trainer's trackers.

Every reading has the same keys, but for those that a method names by what it finds (such as
`pass_rate/<category>`), so that a metric that stays zero shows as zero. Names are under `ropd/`;
`METRICS` says what each means.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean
from typing import Final

from algo.asking.query import Transcript
from algo.errors import FailureKind
from algo.judge.group import Rule
from algo.judge.method import Judgement, ScoredGroup
from algo.llm.endpoint import Endpoint
from algo.llm.scheduler import COUNTERS

# Rewards of a group that differ by less teach nothing: a score has at most 60 points below the
# line, so two that differ at all differ by far more than the rounding of a sum.
TIE: Final = 1e-9
# Of names that share a prefix, the ones with the most values: a rubric may invent any category, and
# a tracker shows a few rows well.
_MOST_NAMES: Final = 8

_GROUP_FIGURES: Final[dict[str, str]] = {
    "reward_mean": "Mean reward of a group's rollouts.",
    "reward_std": "Population standard deviation of a group's rewards, as in Algorithm 1.",
    "tie_rate": "Share of the groups whose rewards are all equal, which teach nothing.",
    "response_chars": "Characters of a rollout, thinking included.",
    "teacher_answers": "Distinct teacher answers shown for a group: the effective m.",
    "unfinished": "Share of the rollouts that were cut off at a limit, judged or not.",
    "ruled_groups": "Share of the groups in which a rule settled a rollout, and no judge.",
    "rule/unfinished": "Share of the rollouts scored 0 because they were cut off at a limit.",
    "rule/dropped": "Share of the rollouts left out because they were cut off at a limit; figures "
    "of rewards leave them out too.",
    "rule/unclosed_think": "Share of the rollouts scored 0 because their thinking never ended.",
    "rule/empty": "Share of the rollouts scored 0 because they hold no answer.",
    "teacher_mean": "Mean score of the teacher answers that were judged beside the rollouts.",
    "margin": "`teacher_mean` minus `reward_mean`, group by group.",
    "teacher_beaten_rate": "Share of the groups whose best rollout scores above every teacher.",
}
_COUNTS: Final[dict[str, str]] = {
    "groups_judged": "Groups judged since the last reading.",
    "groups_failed": "Groups that could not be judged; each left its batch and was replaced.",
    "failed/<kind>": "The same by kind of failure: " + ", ".join(FailureKind) + ".",
}
_USAGE: Final[dict[str, str]] = {
    "tokens_in": "Prompt tokens of all replies, cached ones included; those to probes and trial "
    "requests count too, as below.",
    "tokens_cached": "Prompt tokens that the endpoint reports as served from its cache.",
    "tokens_out": "Tokens of all replies, unusable ones included.",
    "cost": "What these tokens cost at the roles' `prices`.",
    "cut_characters": "Characters cut out of answers to fit the judge's context.",
}
_LATENCIES: Final[dict[str, str]] = {
    "group_latency_p50_s": "Median time from a group's arrival at the judge to its scores.",
    "group_latency_p95_s": "The same, 95th percentile.",
    "<role>_latency_p50_s": "Median time of one reply of a role, from sending to its last byte.",
    "<role>_latency_p95_s": "The same, 95th percentile.",
}
METRICS: Final[dict[str, str]] = {
    **_COUNTS,
    **_GROUP_FIGURES,
    **{f"judge/{name}": meaning for name, meaning in (COUNTERS | _USAGE | _LATENCIES).items()},
}
"""What every judged method reports: name under `ropd/`, and what it says. Figures of groups are
averaged over the groups since the last reading, counts start anew with each."""


def group_figures(judgement: Judgement, scored: ScoredGroup) -> dict[str, list[float]]:
    """What one judged group adds to the metrics, whatever the method."""
    scores = scored.kept
    figures = {
        "reward_mean": fmean(scores),
        "reward_std": _spread(scores),
        "tie_rate": float(max(scores) - min(scores) < TIE),
        "response_chars": fmean(len(rollout.text) for rollout in judgement.group.rollouts),
        "teacher_answers": float(len(judgement.teachers)),
    }
    finished = [rollout.finished for rollout in judgement.group.rollouts]
    figures["unfinished"] = finished.count(False) / len(finished)
    figures["ruled_groups"] = float(any(scored.rules))
    for rule in Rule:
        figures[f"rule/{rule.value}"] = scored.rules.count(rule) / len(scored.rules)
    if scored.teacher_scores:
        figures["teacher_mean"] = fmean(scored.teacher_scores)
        figures["margin"] = figures["teacher_mean"] - figures["reward_mean"]
        figures["teacher_beaten_rate"] = float(max(scores) > max(scored.teacher_scores))
    return {name: [value] for name, value in figures.items()}


class Tally:
    """Figures since the last `drain`."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._prices = {endpoint.role: endpoint.settings.prices for endpoint in endpoints}
        self._clear()

    def judged(self, judgement: Judgement, *figures: Mapping[str, Sequence[float]]) -> None:
        """Count a judged group and the values that it adds to each metric."""
        self._judged += 1
        self._seconds.append(judgement.seconds)
        for each in figures:
            for name, values in each.items():
                self._figures[name].extend(values)
        self._spent(judgement.transcript)

    def aside(self, transcript: Transcript) -> None:
        """Count the tokens of what was asked beside the groups; their latencies say nothing of
        what a group waits for."""
        self._spent(transcript, timed=False)

    def failed(self, kind: FailureKind, transcript: Transcript) -> None:
        self._failures[kind] += 1
        self._spent(transcript)

    def drain(self, engine: Mapping[str, float]) -> dict[str, float]:
        """All figures under their names, together with the request engine's; starts anew."""
        metrics = {
            "groups_judged": float(self._judged),
            "groups_failed": float(self._failures.total()),
            **{f"failed/{kind.value}": float(self._failures[kind]) for kind in FailureKind},
            **{name: fmean(values) for name, values in self._shown()},
            **{f"judge/{name}": value for name, value in self._judge_figures(engine).items()},
        }
        self._clear()
        return {f"ropd/{name}": value for name, value in metrics.items()}

    def _shown(self) -> list[tuple[str, list[float]]]:
        by_prefix: defaultdict[str, list[tuple[str, list[float]]]] = defaultdict(list)
        for name, values in self._figures.items():
            prefix, slash, _ = name.partition("/")
            by_prefix[prefix if slash else name].append((name, values))
        return [
            figure
            for figures in by_prefix.values()
            for figure in sorted(figures, key=lambda entry: -len(entry[1]))[:_MOST_NAMES]
        ]

    def _judge_figures(self, engine: Mapping[str, float]) -> dict[str, float]:
        figures = dict(engine)
        timed = {"group": self._seconds, **self._latencies}
        for stage, seconds in timed.items():
            if seconds:
                figures[f"{stage}_latency_p50_s"] = quantile(seconds, 0.5)
                figures[f"{stage}_latency_p95_s"] = quantile(seconds, 0.95)
        return figures | dict(self._usage)

    def _spent(self, transcript: Transcript, timed: bool = True) -> None:
        for exchange in transcript:
            self._usage["cut_characters"] += exchange.cut_characters
            reply = exchange.reply
            if reply is None:
                continue
            if timed:
                self._latencies[exchange.stage].append(reply.latency_s)
            prices = self._prices[exchange.stage]
            cached = reply.cached_tokens or 0
            fresh = (reply.prompt_tokens or 0) - cached
            written = reply.completion_tokens or 0
            self._usage["tokens_in"] += fresh + cached
            self._usage["tokens_cached"] += cached
            self._usage["tokens_out"] += written
            self._usage["cost"] += prices.cost(fresh, cached, written)

    def _clear(self) -> None:
        self._judged = 0
        self._failures: Counter[FailureKind] = Counter()
        self._figures: defaultdict[str, list[float]] = defaultdict(list)
        self._seconds: list[float] = []
        self._latencies: defaultdict[str, list[float]] = defaultdict(list)
        self._usage = dict.fromkeys(_USAGE, 0.0)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _spread(values: Sequence[float]) -> float:
    """The population standard deviation, as in Algorithm 1."""
    mean = fmean(values)
    return sqrt(fmean((value - mean) ** 2 for value in values))
