"""The checkout in which the scripts run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.checkout import Checkout, make_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return make_checkout(tmp_path / "a path with spaces")
