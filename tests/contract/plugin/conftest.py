"""A run that lacks nothing but its judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.checking import whole_run


@pytest.fixture
def whole(tmp_path: Path) -> list[str]:
    return whole_run(tmp_path)
