"""Delays and faults that the embedded judge can be told to show, for tests and for timing.

This module decides which fault a request meets and how long it waits; `judge` acts it out.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Role(StrEnum):
    RUBRICATOR = "rubricator"
    VERIFIER = "verifier"
    TEACHER = "teacher"


class FaultKind(StrEnum):
    """What a request meets instead of its reply."""

    HTTP_500 = "http_500"
    HTTP_429 = "http_429"
    """Status 429 with a `Retry-After` header of the fault's `seconds`."""
    DROP = "drop"
    """The connection is cut without a response."""
    HANG = "hang"
    """No response for the fault's `seconds`, then the connection is cut."""
    TRUNCATED_JSON = "truncated_json"
    """The first half of the reply, with finish reason `length`."""
    WRONG_SCHEMA = "wrong_schema"
    """JSON of another shape than the prompt asked for."""
    LYING_TOTALS = "lying_totals"
    """The right booleans and points under totals that do not follow from them."""
    REFUSAL = "refusal"
    EMPTY = "empty"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Delay(_Frozen):
    """How long a reply takes, in seconds: always `seconds`, or lognormal with that median."""

    distribution: Literal["fixed", "lognormal"] = "fixed"
    seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    sigma: Annotated[float, Field(ge=0, le=5)] = 0.5
    """Standard deviation of the logarithm; unused when fixed."""

    def draw(self, rng: random.Random) -> float:
        if self.distribution == "fixed" or self.seconds == 0:
            return self.seconds
        return self.seconds * rng.lognormvariate(0.0, self.sigma)


class Fault(_Frozen):
    """A fault and the requests that meet it: those of `role` whose prompt holds `prompt_contains`.

    Among these, `schedule` names the ordinals (from 0) that fail; without it each fails with
    probability `fraction`.
    """

    kind: FaultKind
    role: Role | None = None
    """None: every role."""
    prompt_contains: str | None = None
    fraction: Annotated[float, Field(ge=0, le=1)] = 1.0
    by_question: bool = False
    """Draw `fraction` once a question, so that a retry meets the same fault again."""
    schedule: tuple[int, ...] | None = None
    seconds: Annotated[float, Field(ge=0, le=86400)] = 1.0

    def concerns(self, role: Role, prompt: str) -> bool:
        return self.role in (None, role) and (self.prompt_contains or "") in prompt


class Impairments(_Frozen):
    """All that is wrong with the judge; the default is nothing."""

    delays: Mapping[Role, Delay] = Field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    seed: int = 0


class Impairer:
    """Applies one set of `Impairments` to a stream of requests, reproducibly by their order."""

    def __init__(self, impairments: Impairments) -> None:
        self.impairments = impairments
        self._matched: Counter[int] = Counter()
        self._delays = random.Random(f"{impairments.seed} delays")

    def delay(self, role: Role) -> float:
        chosen = self.impairments.delays.get(role)
        return chosen.draw(self._delays) if chosen else 0.0

    def fault(self, role: Role, prompt: str, question: str) -> Fault | None:
        """The first fault that strikes this request. Each concerned fault counts the request."""
        struck: Fault | None = None
        for index, fault in enumerate(self.impairments.faults):
            if not fault.concerns(role, prompt):
                continue
            ordinal = self._matched[index]
            self._matched[index] += 1
            if struck is None and self._strikes(index, fault, ordinal, question):
                struck = fault
        return struck

    def _strikes(self, index: int, fault: Fault, ordinal: int, question: str) -> bool:
        if fault.schedule is not None:
            return ordinal in fault.schedule
        chance = question if fault.by_question else str(ordinal)
        return random.Random(f"{self.impairments.seed} {index} {chance}").random() < fault.fraction
