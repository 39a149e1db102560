"""Every way to combine the groups composes, passes verl's validation and the static checks.

Presets, students, hardware and modes set keys that bear on each other and are crossed in full.
Tracks and judges set their own keys (tests/unit/project/test_presets.py) and go round, so that
each stands beside each choice of every other group at least once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

import pytest

from ropd_verl.checks.doctor import examine
from ropd_verl.checks.finding import Level, Reach
from ropd_verl.config import CONFIG_DIR, compose_config

GROUPS = {
    group: tuple(sorted(file.stem for file in (CONFIG_DIR / group).glob("*.yaml")))
    for group in ("preset", "student", "hardware", "mode", "track", "judge")
}
CROSSED: tuple[str, ...] = ("preset", "student", "hardware", "mode")


def crossed() -> Iterator[dict[str, str]]:
    for number, chosen in enumerate(product(*(GROUPS[group] for group in CROSSED))):
        combination = dict(zip(CROSSED, chosen, strict=True))
        # Steps that share no factor with the other groups' sizes, so that all pairs come up.
        combination["track"] = GROUPS["track"][(number + number // 3 + number // 15) % 3]
        combination["judge"] = GROUPS["judge"][(number // 3 + number // 5 + number // 45) % 3]
        yield combination


COMBINATIONS = [
    *crossed(),
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
    for one, other in combinations(sorted(GROUPS), 2):
        for pair in product(GROUPS[one], GROUPS[other]):
            assert ((one, pair[0]), (other, pair[1])) in seen


def static_errors(name: str, overrides: list[str]) -> list[tuple[str, str]]:
    """(check, what) of every error that needs neither files nor machine."""
    found = examine(compose_config(name, overrides), {}, Reach.STATIC)
    return [(d.check.name, d.finding.what) for d in found if d.finding.level is Level.ERROR]


@pytest.mark.parametrize("override", ["preset=official", "mode=colocate_async", "adapter=lora"])
def test_the_example_takes_the_groups_too(override: str) -> None:
    assert static_errors("ropd_cpu", [override]) == []


@pytest.mark.parametrize("hardware", GROUPS["hardware"])
def test_combinations_compose_and_pass(hardware: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for combination in COMBINATIONS:
        if combination["hardware"] != hardware:
            continue
        overrides = [f"{group}={choice}" for group, choice in combination.items()]
        errors = static_errors("ropd", overrides)
        if hardware == "cpu" and combination["mode"] == "separate_async":
            # The one pair that cannot be: verl moves weights from GPU to GPU in this mode.
            assert [name for name, _ in errors] == ["mode"], overrides
            assert "mode=colocate_async" in errors[0][1]
        else:
            assert errors == [], overrides
