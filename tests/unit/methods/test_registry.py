"""What the registry says of each method, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from algo.errors import ConfigurationError
from algo.judge.plan import Workload
from algo.methods.registry import (
    METHODS,
    SIGNALS,
    build_engine,
    is_judged,
    load_settings,
    method_of,
    roles_of,
)

BESIDE_ROPD = [name for name in (*METHODS, *SIGNALS) if name != "ropd"]
LOAD = Workload(10, 3, 2, 7, question=100, answer=1000, rubric=200, verdict=10)


def settings(name: str, **node: Any):
    return load_settings({"method": {"name": name, **node.pop("options", {})}, **node})


@pytest.mark.parametrize(
    ("name", "options", "roles", "teachers", "truth"),
    [
        ("ropd", {}, ["rubricator", "verifier"], True, False),
        ("tjudge", {}, ["verifier"], False, False),
        ("tjudge", {"reference": "teacher"}, ["verifier"], True, False),
        ("ovd", {}, ["verifier"], False, False),
        ("rlvr", {}, [], False, True),
    ],
)
def test_a_method_names_what_it_needs(
    name: str, options: dict[str, str], roles: list[str], teachers: bool, truth: bool
) -> None:
    chosen = settings(name, options=options)
    method = method_of(chosen)
    assert list(roles_of(chosen)) == roles
    assert method.needs_teachers(chosen) is teachers
    assert method.needs_ground_truth(chosen) is truth
    assert is_judged(chosen) is bool(roles)
    assert method.summary(chosen)
    assert method.about.endswith(".")


def test_an_unknown_method_or_option_is_named_with_the_choices() -> None:
    with pytest.raises(ConfigurationError, match="choose one of ropd, tjudge, ovd, rlvr"):
        settings("judge")
    for name, option in (("tjudge", "refrence"), ("ovd", "reference"), ("rlvr", "prompt")):
        with pytest.raises(ConfigurationError, match=rf"ropd\.method\.{option}"):
            settings(name, options={option: "none"})


@pytest.mark.parametrize("name", BESIDE_ROPD)
@pytest.mark.parametrize(
    ("node", "key"),
    [
        ({"rubric": {"mode": "per_student"}}, "ropd.rubric.mode=per_student"),
        ({"rubric": {"weights": "equal"}}, "ropd.rubric.weights=equal"),
        ({"verification": {"mode": "isolated"}}, "ropd.verification.mode=isolated"),
        ({"probes": {"every_steps": 10}}, "ropd.probes.every_steps=10"),
        ({"prompts": {"verifier": "mine.txt"}}, "ropd.prompts.verifier=mine.txt"),
    ],
)
def test_what_only_ropd_reads_is_refused_beside_another_method(
    name: str, node: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"{key} .*method={name} does not read it"):
        settings(name, **node)
    settings("ropd", **node)


def test_a_method_without_a_judge_has_no_engine() -> None:
    with pytest.raises(ConfigurationError, match="rlvr asks no judge"):
        build_engine(settings("rlvr"), {})


@pytest.mark.parametrize("name", ["tjudge", "ovd"])
def test_a_group_costs_a_call_a_rollout(name: str) -> None:
    chosen = settings(name)
    [stage] = method_of(chosen).stages(chosen, LOAD) or []
    assert (stage.role, stage.calls, stage.answers, stage.in_turn) == ("verifier", 3, 1, 1)
    assert stage.tokens_out == 3 * 10
    frame = stage.tokens_in - 3 * (100 + 1000)
    assert frame % 3 == 0
    assert 300 < frame // 3 < 1500  # the template


def test_references_are_shown_in_each_call_and_the_first_goes_ahead() -> None:
    chosen = settings("tjudge", options={"reference": "teacher"})
    [stage] = method_of(chosen).stages(chosen, LOAD) or []
    assert (stage.calls, stage.answers, stage.in_turn) == (3, 3, 2)
    assert stage.tokens_in > 3 * (100 + 3 * 1000)


def test_rlvr_asks_nothing() -> None:
    assert method_of(settings("rlvr")).stages(settings("rlvr"), LOAD) == ()
