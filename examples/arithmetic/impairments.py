"""Delays and faults that the embedded judge can be told to show, for tests and for timing.

The settings of `algo.testing.schedule`, for the roles that this judge plays.
"""

from __future__ import annotations

from enum import StrEnum

from algo import testing


class Role(StrEnum):
    RUBRICATOR = "rubricator"
    VERIFIER = "verifier"
    TEACHER = "teacher"


Impairments = testing.Impairments[Role]
