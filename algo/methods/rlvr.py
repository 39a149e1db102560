"""RLVR: each rollout is graded against ground truth, a control without a teacher and a judge.

Reinforcement learning with verifiable rewards, as GRPO was introduced with (arXiv 2402.03300);
the ROPD paper has no such run. r_i = 1 where the final answer of rollout i is right, else 0, by the
very rule that grades validation (`algo/grading/ground_truth.py`): a rollout that was cut off is
graded like any other, and states nothing as a rule. It assumes a right answer in every training
row.

The trainer makes this signal: `ropd_verl/methods/rlvr.py`.
"""

from __future__ import annotations

from algo.judge.signal import Signal
from algo.ropd.settings import RopdSettings


class Rlvr(Signal[RopdSettings]):
    name = "rlvr"
    about = (
        "Reinforcement learning with verifiable rewards: every answer of the student is graded "
        "against ground truth, and 1 for a right one, 0 for any other is the reward of GRPO. No "
        "teacher and no judge take part."
    )

    @classmethod
    def needs_ground_truth(cls, settings: RopdSettings) -> bool:
        return True

    @classmethod
    def summary(cls, settings: RopdSettings) -> str:
        return "rollouts graded against ground truth; no judge, no teacher answers, no journal"
