"""Every way to combine the groups composes, passes verl's validation and the static checks.

Presets, students, hardware and modes set keys that bear on each other and are crossed in full.
Tracks, judges and methods set their own keys (tests/unit/project/test_presets.py) and go round, so
that each stands beside each choice of every other group at least once. Methods are crossed with
presets, students and hardware besides, and ablations with presets.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

import pytest
from omegaconf import DictConfig, OmegaConf

from algo.methods.registry import METHODS, SIGNALS
from ropd_verl.checks.doctor import examine
from ropd_verl.checks.finding import Level, Reach
from ropd_verl.config import CONFIG_DIR, compose_config

GROUPS = {
    group: tuple(sorted(file.stem for file in (CONFIG_DIR / group).glob("*.yaml")))
    for group in ("preset", "student", "hardware", "mode", "track", "judge", "method", "ablation")
}
ROUND = ("preset", "student", "hardware", "mode", "track", "judge")
CROSSED: tuple[str, ...] = ("preset", "student", "hardware", "mode")


def crossed() -> Iterator[dict[str, str]]:
    for number, chosen in enumerate(product(*(GROUPS[group] for group in CROSSED))):
        combination = dict(zip(CROSSED, chosen, strict=True))
        # Steps that share no factor with the other groups' sizes, so that all pairs come up.
        combination["track"] = GROUPS["track"][(number + number // 3 + number // 15) % 3]
        combination["judge"] = GROUPS["judge"][(number // 3 + number // 5 + number // 45) % 3]
        yield combination


def each_with(group: str, *others: str) -> Iterator[dict[str, str]]:
    """Each choice of `group` with each combination of the `others`."""
    for chosen in product(*(GROUPS[name] for name in (group, *others))):
        yield dict(zip((group, *others), chosen, strict=True))


def other_methods() -> Iterator[dict[str, str]]:
    """Each but ROPD, which `crossed` has, with modes going round."""
    methods = each_with("method", "preset", "student", "hardware")
    for number, combination in enumerate(methods):
        if combination["method"] != "ropd":
            yield {**combination, "mode": GROUPS["mode"][(number + number // 3) % 3]}


COMBINATIONS = [
    *crossed(),
    *other_methods(),
    *each_with("ablation", "preset"),
    {"method": "tjudge", "ropd.method.reference": "teacher"},
    *(
        {"adapter": "lora", "attention": attention, "hardware": hardware, "mode": mode}
        for attention, hardware, mode in product(
            ("flash", "sdpa"), GROUPS["hardware"], GROUPS["mode"]
        )
    ),
]


def test_there_are_over_a_hundred_and_all_pairs_are_among_them() -> None:
    assert len(COMBINATIONS) > 100
    seen = {pair for c in crossed() for pair in combinations(sorted(c.items()), 2)}
    for one, other in combinations(sorted(ROUND), 2):
        for pair in product(GROUPS[one], GROUPS[other]):
            assert ((one, pair[0]), (other, pair[1])) in seen


def static_errors(name: str, overrides: list[str]) -> list[tuple[str, str]]:
    """(check, what) of every error that needs neither files nor machine."""
    found = examine(compose_config(name, overrides), {}, Reach.STATIC)
    return [(d.check.name, d.finding.what) for d in found if d.finding.level is Level.ERROR]


def test_every_method_and_every_setting_of_table_6_has_a_word() -> None:
    assert GROUPS["method"] == tuple(sorted((*METHODS, *SIGNALS)))
    assert {"one_teacher", "per_student", "named"} <= set(GROUPS["ablation"])


@pytest.mark.parametrize(
    ("ablation", "key", "value"),
    [
        ("one_teacher", "ropd.teacher_answers", 1),
        ("per_student", "ropd.rubric.mode", "per_student"),
        ("named", "ropd.verification.mode", "joint_named"),
        ("students_only", "ropd.verification.mode", "students_only"),
        ("isolated", "ropd.verification.mode", "isolated"),
        ("unweighted", "ropd.rubric.weights", "equal"),
        ("unnormalised", "algorithm.norm_adv_by_std_in_grpo", False),
    ],
)
def test_an_ablation_changes_one_setting(ablation: str, key: str, value: object) -> None:
    whole = dict(leaves(compose_config("ropd_cpu", [])))
    changed = dict(leaves(compose_config("ropd_cpu", [f"ablation={ablation}"])))
    differing = {k: v for k, v in changed.items() if k not in whole or whole[k] != v}
    also = {"example.teacher_answers": 1} if ablation == "one_teacher" else {}
    assert differing == {key: value, **also}
    assert whole.keys() <= changed.keys()


def leaves(config: DictConfig) -> Iterator[tuple[str, object]]:
    """Every value of a configuration, resolved, by its key."""
    waiting: list[tuple[str, object]] = [("", OmegaConf.to_container(config, resolve=True))]
    while waiting:
        key, node = waiting.pop()
        if isinstance(node, dict):
            waiting += ((f"{key}.{name}".strip("."), value) for name, value in node.items())
        else:
            yield key, node


@pytest.mark.parametrize("method", GROUPS["method"])
@pytest.mark.parametrize("override", ["preset=official", "mode=colocate_async", "adapter=lora"])
def test_the_example_takes_the_groups_too(override: str, method: str) -> None:
    assert static_errors("ropd_cpu", [override, f"method={method}"]) == []


@pytest.mark.parametrize("hardware", GROUPS["hardware"])
def test_combinations_compose_and_pass(hardware: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for combination in COMBINATIONS:
        if combination.get("hardware", "a100x8") != hardware:
            continue
        overrides = [f"{group}={choice}" for group, choice in combination.items()]
        errors = static_errors("ropd", overrides)
        if hardware == "cpu" and combination.get("mode") == "separate_async":
            # The one pair that cannot be: verl moves weights from GPU to GPU in this mode.
            assert [name for name, _ in errors] == ["mode"], overrides
            assert "mode=colocate_async" in errors[0][1]
        else:
            assert errors == [], overrides
