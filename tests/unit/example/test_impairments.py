"""The judge's settings of delays and faults name its own roles alone."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from examples.arithmetic.impairments import Impairments, Role


@pytest.mark.parametrize("role", Role)
def test_every_role_of_the_judge_may_be_impaired(role: str) -> None:
    faults = [{"kind": "drop", "role": role}]
    chosen = Impairments.model_validate({"delays": {role: {"seconds": 1}}, "faults": faults})
    assert (chosen.delays[Role(role)].seconds, chosen.faults[0].role) == (1.0, role)


@pytest.mark.parametrize(
    "fields",
    [
        {"delays": {"nobody": {"seconds": 1}}},
        {"faults": [{"kind": "drop", "role": "nobody"}]},
    ],
)
def test_a_role_that_it_does_not_play_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"'rubricator', 'verifier' or 'teacher'"):
        Impairments.model_validate(fields)
