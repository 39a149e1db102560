"""OVD: the judge gives each rollout a verbal score from 0 to 9.

Follows on-policy verbal distillation (arXiv 2601.21968) as far as the ROPD paper uses it, as a
baseline with discrete verbal scores of whole trajectories: one digit a rollout, S_i, and
s_i = S_i / 9 is GRPO's reward.

Left out is OVD's verbal rejection, which accepts y where S(y) >= theta and trains on a teacher's
demonstration in a rejected one's place: the ROPD paper does not mention it, theta is not known
here, and neither is the reward of a demonstration. Open in both papers is the prompt. It assumes a
judge that can solve the question itself.
"""

from __future__ import annotations

from algo.methods.grades import GradeMethod


class Ovd(GradeMethod):
    name = "ovd"
    about = (
        "On-policy verbal distillation ([arXiv 2601.21968](https://arxiv.org/abs/2601.21968)) "
        "without rejection: a judge gives every answer of the student a verbal score from 0 to 9, "
        "and a ninth of it is the reward of GRPO."
    )
    top = 9
