"""Which request meets which fault, and how long it waits: settings, and what applies them.

By a schedule of ordinals, or by a fraction drawn with a seed: the same requests in the same order
meet the same. Acting a fault out is `server`'s part.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from algo.testing.faults import Fault, FaultKind
from algo.testing.wire import Request

R = TypeVar("R", bound=str)
"""The roles that settings may name: an enumeration, or any text."""


class Delay(BaseModel, frozen=True, extra="forbid"):
    """How long a reply takes, in seconds: always `seconds`, or lognormal with that median."""

    distribution: Literal["fixed", "lognormal"] = "fixed"
    seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    sigma: Annotated[float, Field(ge=0, le=5)] = 0.5
    """Standard deviation of the logarithm; unused when fixed."""

    def draw(self, rng: random.Random) -> float:
        if self.distribution == "fixed" or self.seconds == 0:
            return self.seconds
        return self.seconds * rng.lognormvariate(0.0, self.sigma)


class ScheduledFault(BaseModel, Generic[R], frozen=True, extra="forbid"):
    """A fault and the requests that meet it: those of `role` whose text holds `prompt_contains`.

    Among these, `schedule` names the ordinals (from 0) that fail; without it each fails with
    probability `fraction`.
    """

    kind: FaultKind
    role: R | None = None
    """None: every role."""
    prompt_contains: str | None = None
    fraction: Annotated[float, Field(ge=0, le=1)] = 1.0
    by_question: bool = False
    """Draw `fraction` once a question, so that a retry meets the same fault again."""
    schedule: tuple[int, ...] | None = None
    seconds: Annotated[float, Field(ge=0, le=86400)] | None = 1.0
    """Of a hang, or of the `Retry-After` of a 429, which null leaves out."""

    def concerns(self, request: Request) -> bool:
        return self.role in (None, request.role) and (self.prompt_contains or "") in request.text


class Impairments(BaseModel, Generic[R], frozen=True, extra="forbid"):
    """All that is wrong with an endpoint; the default is nothing."""

    delays: Mapping[R, Delay] = Field(default_factory=dict)
    """By role."""
    faults: tuple[ScheduledFault[R], ...] = ()
    seed: int = 0


class Impairer:
    """Applies one set of `Impairments` to a stream of requests, reproducibly by their order.

    `question_of` says which requests are about the same question: the whole text by default.
    """

    def __init__(
        self,
        impairments: Impairments[Any],
        question_of: Callable[[Request], str] = lambda request: request.text,
    ) -> None:
        self.impairments = impairments
        self._question_of = question_of
        self._matched: Counter[int] = Counter()
        self._delays = random.Random(f"{impairments.seed} delays")

    def delay_s(self, request: Request) -> float:
        chosen = self.impairments.delays.get(request.role)
        return chosen.draw(self._delays) if chosen else 0.0

    def plan(self, request: Request) -> Fault | None:
        """The first fault that strikes this request. Each concerned fault counts the request."""
        struck: Fault | None = None
        for index, fault in enumerate(self.impairments.faults):
            if not fault.concerns(request):
                continue
            ordinal = self._matched[index]
            self._matched[index] += 1
            if struck is None and self._strikes(index, fault, ordinal, request):
                struck = Fault(fault.kind, fault.seconds)
        return struck

    def _strikes(
        self, index: int, fault: ScheduledFault[Any], ordinal: int, request: Request
    ) -> bool:
        if fault.schedule is not None:
            return ordinal in fault.schedule
        chance = self._question_of(request) if fault.by_question else str(ordinal)
        return random.Random(f"{self.impairments.seed} {index} {chance}").random() < fault.fraction
