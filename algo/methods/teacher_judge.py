"""T-Judge: the judge grades each rollout from 0 to 10, without a rubric.

Follows the baseline "Teacher-as-Judge" of the ROPD paper (arXiv 2605.07396, Tables 1 to 3 and the
case study of Table 4): the teacher is prompted as a judge and returns one scalar a rollout, which
is GRPO's reward. s_i = g_i / 10.

The paper leaves open the prompt, the range (its case study shows 0.70 and 0.55), the sampling and
whether the judge sees a teacher answer. Here: an integer of 0 to 10, the verifier's model and
temperature (0, Table A2), and no reference unless `ropd.method.reference=teacher`. It assumes a
judge that can solve the question itself, or a reference that does.
"""

from __future__ import annotations

from typing import Literal

from algo.methods.grades import GradeMethod, GradeOptions
from algo.ropd.settings import RopdSettings


class TeacherJudgeOptions(GradeOptions):
    reference: Literal["none", "teacher"] = "none"
    """`teacher` shows the prompt's m teacher answers beside the answer that is graded."""


class TeacherJudge(GradeMethod):
    name = "tjudge"
    about = (
        "Teacher-as-Judge, a baseline of [arXiv 2605.07396](https://arxiv.org/abs/2605.07396): a "
        "judge grades every answer of the student from 0 to 10, and a tenth of the grade is the "
        "reward of GRPO."
    )
    options = TeacherJudgeOptions
    top = 10

    @classmethod
    def needs_teachers(cls, settings: RopdSettings) -> bool:
        return settings.method.read(TeacherJudgeOptions).reference == "teacher"

    @classmethod
    def template_name(cls, settings: RopdSettings) -> str:
        return "tjudge_reference" if cls.needs_teachers(settings) else "tjudge"
