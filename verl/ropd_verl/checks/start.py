"""What is checked before Ray starts, so that wrong input is one line and not a stack trace.

The checks are those of `ropd_verl.checks.doctor`; a start stops at the first error and prints
warnings and the judge's endpoints.
"""

from __future__ import annotations

from collections.abc import Mapping

from omegaconf import DictConfig

from ropd_verl.checks.doctor import CHECKS
from ropd_verl.checks.finding import Level, Subject


def check(config: DictConfig, environ: Mapping[str, str]) -> None:
    """Run every check that a start needs; an example's inputs have to be made by then.

    Raises:
        ConfigurationError: the first thing found wrong.
    """
    subject = Subject(config, environ)
    for entry in CHECKS:
        if not entry.at_start:
            continue
        for finding in entry.run(subject):
            if finding.level is Level.WARNING:
                print(finding.line(entry.name, entry.why))
            elif entry.name == "judge":
                print(finding.what)
