"""What the tests of the doctor's checks share."""

from __future__ import annotations

from collections.abc import Iterable

from ropd_verl.checks.finding import Finding, Level, Subject
from ropd_verl.config import compose_config


def subject(*overrides: str, name: str = "ropd", environ: dict[str, str] | None = None) -> Subject:
    return Subject(compose_config(name, list(overrides)), environ or {})


def levels(findings: Iterable[Finding]) -> list[Level]:
    return [finding.level for finding in findings]
