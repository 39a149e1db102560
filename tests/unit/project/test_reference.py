"""docs/reference.md is what the code says of its settings and metrics, and leaves none out."""

from __future__ import annotations

import re
import runpy
from typing import Any

from algo.methods.registry import METHODS
from algo.paths import REPOSITORY
from algo.ropd.settings import RopdSettings

GENERATOR = runpy.run_path(str(REPOSITORY / "docs/reference.py"))
PAGE = (REPOSITORY / "docs/reference.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
    for line in PAGE.splitlines()
    if line.startswith("| `ropd")
]
METRICS = [name for metrics in GENERATOR["metrics_by_section"]().values() for name in metrics]


def pattern(name: str) -> str:
    """What a described name matches: `<kind>` stands for one word."""
    return re.sub(r"<\w+>", r"[^/]+", name)


def test_the_page_is_what_the_generator_makes() -> None:
    assert GENERATOR["reference"]() == PAGE, "run: python docs/reference.py"


def leaves(node: Any, key: str) -> set[str]:
    if not isinstance(node, dict) or not node:
        return {key}
    return {leaf for name, below in node.items() for leaf in leaves(below, f"{key}.{name}")}


def test_every_setting_and_every_metric_stands_there_with_a_meaning() -> None:
    keys = {
        re.sub(r"judge\.(rubricator|verifier)\.", "judge.<role>.", key)
        for key in leaves(RopdSettings().model_dump(), "ropd")
    }
    keys |= {
        f"ropd.method.{own}" for method in METHODS.values() for own in method.options.model_fields
    }
    described = {row[0].strip("`") for row in ROWS}
    assert described == keys | {f"ropd/{name}" for name in METRICS}
    assert all(cell for row in ROWS for cell in row)


def test_a_default_that_differs_by_role_is_told_for_each() -> None:
    [row] = [row for row in ROWS if row[0] == "`ropd.judge.<role>.max_tokens`"]
    assert row[2] == "`8192` (rubricator), `4096` (verifier)"


def test_a_metric_that_is_named_anywhere_is_described() -> None:
    """In quotes in the code, in code marks in the docs."""
    files = [
        *(REPOSITORY / "algo").rglob("*.py"),
        *(REPOSITORY / "verl").rglob("*.py"),
        *(REPOSITORY / "docs").glob("*.md"),
    ]
    named = {
        (file.name, name)
        for file in files
        for name in re.findall(r"""["'`]ropd/([\w/<>]+)["'`]""", file.read_text(encoding="utf-8"))
    }
    assert len(named) > 10
    unknown = [
        (file, name)
        for file, name in named
        if not any(re.fullmatch(pattern(described), name) for described in METRICS)
    ]
    assert unknown == []
