"""Marks every test by its folder, bounds its time by the same, and runs the quick ones first."""

from __future__ import annotations

from pathlib import Path

import pytest

# Seconds that one test may take, in the order in which the folders run.
TIMEOUT_S = {"unit": 60, "contract": 180, "e2e": 900}
ROOT = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        kind = _kind(item)
        item.add_marker(kind)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S[kind]))
    items.sort(key=lambda item: list(TIMEOUT_S).index(_kind(item)))


def _kind(item: pytest.Item) -> str:
    kind = item.path.relative_to(ROOT).parts[0]
    if kind not in TIMEOUT_S:
        raise pytest.UsageError(f"{item.path}: tests live in tests/{{{','.join(TIMEOUT_S)}}}/")
    return kind
