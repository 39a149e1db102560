"""verl's own reward, for `benchmarks.overhead`: its naive manager and a function that it calls.

The manager says nothing to what the trainer asks of a judge's manager after each step.
"""

from __future__ import annotations

from typing import Any

from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

from algo.grading.ground_truth import grade


class VerlsOwn(NaiveRewardManager):
    def metrics(self) -> dict[str, float]:
        return {}

    def judging_spans(self) -> dict[str, Any]:
        return {}

    def raise_if_ended(self) -> None:
        """Nothing ends it."""


def compute_score(data_source: str, solution_str: str, ground_truth: str, **_: Any) -> float:
    return grade(data_source, solution_str, ground_truth)
