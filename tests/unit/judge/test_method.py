"""The seam: what a method hands to the engine becomes scores only if it keeps the contract."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.errors import ConfigurationError, MethodError
from algo.judge.group import Group, Rollout
from algo.judge.method import Judgement, Panel, Resources, ScoredGroup
from algo.judge.record import COMMON_KEYS, Setup
from algo.llm.scheduler import RequestScheduler
from algo.methods.registry import METHODS, check_method, load_settings, method_of


@dataclass(frozen=True)
class Given(Panel):
    """Scores that a test made up."""

    students: tuple[int, ...]
    given: tuple[float, ...]
    teachers: tuple[float, ...] = ()

    def scores(self) -> tuple[float, ...]:
        return self.given

    def teacher_scores(self) -> tuple[float, ...]:
        return self.teachers

    def record(self) -> dict[str, Any]:
        return {"students": list(self.students), "given": list(self.given)}


def judgement(rules: list[bool], *panels: Panel) -> Judgement:
    """A group whose rollout i is scored by a rule if `rules[i]`."""
    rollouts = [Rollout("" if ruled else "answer", True) for ruled in rules]
    group = Group("u", [{"role": "user", "content": "q"}], rollouts, 0)
    return Judgement(group, "fp", "q", panels=panels)


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.data())
def test_each_judged_rollout_gets_its_own_score_and_a_ruled_one_zero(
    rules: list[bool], data: st.DataObject
) -> None:
    judged = [index for index, ruled in enumerate(rules) if not ruled]
    shuffled = data.draw(st.permutations(judged))
    cut = data.draw(st.integers(0, len(judged)))
    scores = {index: data.draw(st.floats(0, 1)) for index in judged}
    panels = [
        Given(tuple(part), tuple(scores[index] for index in part))
        for part in (shuffled[:cut], shuffled[cut:])
        if part
    ]
    scored = ScoredGroup.of(judgement(rules, *panels))
    assert scored.scores == tuple(scores.get(index, 0.0) for index in range(len(rules)))
    assert [rule is not None for rule in scored.rules] == rules


@given(st.lists(st.integers(0, 5), max_size=8))
def test_a_rollout_left_out_or_judged_twice_or_ruled_is_never_scored(seats: list[int]) -> None:
    rules = [False, True, False, False]
    made = judgement(rules, Given(tuple(seats), (0.5,) * len(seats)))
    if sorted(seats) == [0, 2, 3]:
        assert ScoredGroup.of(made).scores == (0.5, 0.0, 0.5, 0.5)
    else:
        with pytest.raises(MethodError, match="hold an answer"):
            ScoredGroup.of(made)


@given(st.floats().filter(lambda x: not 0 <= x <= 1), st.booleans())
def test_a_score_outside_0_to_1_is_never_a_reward(score: float, of_teacher: bool) -> None:
    panel = Given((0,), (0.5,), (score,)) if of_teacher else Given((0,), (score,))
    with pytest.raises(MethodError, match="not in"):
        ScoredGroup.of(judgement([False], panel))
    assert math.isnan(score) or not 0 <= score <= 1


def test_teacher_scores_are_averaged_over_panels() -> None:
    panels = [Given((0,), (0.0,), (0.25, 1.0)), Given((1,), (1.0,), (0.75, 1.0))]
    assert ScoredGroup.of(judgement([False, False], *panels)).teacher_scores == (0.5, 1.0)


@pytest.mark.parametrize("key", sorted(COMMON_KEYS))
def test_a_methods_own_keys_never_hide_the_records(key: str) -> None:
    with pytest.raises(MethodError, match=key):
        Setup("m", {key: 1}, [])


async def test_a_method_that_shows_teachers_says_so() -> None:
    async with RequestScheduler() as scheduler:
        resources = Resources({}, scheduler, None, 4)
        with pytest.raises(MethodError, match="needs_teachers"):
            resources.teacher_texts("fp")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"name": "other"}, r"ropd\.method\.name=other: choose one of .*ropd"),
        ({"name": "ropd", "scale": 9}, r"ropd\.method\.scale: no such setting"),
    ],
)
def test_a_wrong_method_or_option_is_one_line_by_key(node: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_settings({"method": node})


def test_every_method_is_found_by_its_own_name() -> None:
    for name, method in METHODS.items():
        settings = load_settings({"method": {"name": name}})
        assert method_of(settings) is method
        assert method.name == name
        check_method(settings)
    assert load_settings({}).method.name == "ropd"
