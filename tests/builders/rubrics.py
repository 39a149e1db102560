"""Rubrics made up for tests."""

from __future__ import annotations

from algo.ropd.rubric import Criterion, Rubric


def rubric_of(*points: int) -> Rubric:
    return Rubric(
        criteria=tuple(
            Criterion(criterion_id=f"c{k}", category="Task Completion", criterion="x", points=worth)
            for k, worth in enumerate(points, start=1)
        )
    )
