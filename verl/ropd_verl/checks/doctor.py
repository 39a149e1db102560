"""The one list of checks: the trainer's start goes through it, and `ropd doctor` shows all of it.

A start stops at the first error (`start.check`); the doctor goes on and says everything. Checks
run from cheap to expensive as far as one does not build on another, and the judge is asked last.
Where verl is not installed, the checks that need it are left out and named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from algo.errors import ConfigurationError
from ropd_verl.checks import composition, inputs, judge, machine, rollouts
from ropd_verl.checks.finding import Check, Finding, Level, Reach, Subject, note
from ropd_verl.installation import verl_folder, verl_missing

STATIC, MACHINE, NETWORK = Reach.STATIC, Reach.MACHINE, Reach.NETWORK

CHECKS: tuple[Check, ...] = (
    Check("method", "it decides what is judged and how", STATIC, composition.check_method),
    Check("mode", "verl would stop, or train off-policy", STATIC, composition.check_mode),
    Check("sequences", "attention would miss parts of them", STATIC, composition.check_sequences,
          needs_verl=True),
    Check("batches", "verl would stop at the first update", STATIC, composition.check_batches),
    Check("rollout", "no rollout could be generated", STATIC, composition.check_rollout,
          needs_verl=True),
    Check("unfinished", "a mean would count what is left out", STATIC, rollouts.unfinished),
    Check("schedule", "the learning rate would miss its plan", STATIC, composition.check_schedule),
    Check("verl", "verl refuses the configuration", STATIC, composition.check_verl,
          needs_verl=True),
    Check("context", "the judge would not see all", STATIC, composition.check_judge_context),
    Check("example", "the run takes its student, data and judge from it", MACHINE, inputs.example),
    Check("environment", "workers would fail to import it", MACHINE, machine.environment),
    # Before what is estimated from the student's size, which a fresh machine fetches here.
    Check("student", "there would be nothing to train", NETWORK, inputs.student, needs_verl=True),
    Check("student room", "rollouts would be cut off early", NETWORK, rollouts.room,
          needs_verl=True),
    Check("gpus", "Ray would wait, or memory run out", MACHINE, machine.graphics, needs_verl=True),
    Check("ray cpus", "verl would wait for ever without a word", MACHINE, machine.ray_cpus,
          needs_verl=True),
    Check("disk", "a full disk ends a run at its checkpoint", MACHINE, machine.disk,
          needs_verl=True),
    Check("data", "every step takes its prompts from there", MACHINE, inputs.data),
    Check("ground truth", "each rollout is graded against it", MACHINE, inputs.ground_truth),
    Check("teacher index", "the judge is shown these answers", MACHINE, inputs.teacher_index),
    Check("judge settings", "nobody could be asked", MACHINE, judge.roles, at_start=False),
    Check("judge address", "any node may ask it", MACHINE, judge.address),
    Check("budget", "the run ends when it is spent", MACHINE, judge.budget),
    Check("judge", "there is no reward without it", NETWORK, judge.endpoints),
    Check("run length", "the run would end early, or never step", MACHINE, inputs.run_length),
    Check("structured output", "other replies break more often", NETWORK, judge.structured_output,
          at_start=False),
)  # fmt: skip
"""In their order. A start leaves out what only the doctor asks for."""

# What an example makes at the start is not there before.
_OF_THE_EXAMPLE = (
    "student", "student room", "data", "ground truth", "teacher index", "run length",
    "judge settings",
    "judge address", "judge", "structured output",
)  # fmt: skip


@dataclass(frozen=True)
class Diagnosis:
    """A finding and the check that made it."""

    check: Check
    finding: Finding

    @property
    def line(self) -> str:
        return self.finding.line(self.check.name, self.check.why)


def examine(
    config: DictConfig,
    environ: Mapping[str, str],
    reach: Reach = NETWORK,
) -> Iterator[Diagnosis]:
    """Run the checks within ``reach``; an error ends its own check only."""
    subject = Subject(config, environ)
    within = [check for check in CHECKS if check.reach <= reach]
    left_out = [c for c in within if c.needs_verl] if verl_folder() is None else []
    if left_out:
        yield _left_out(left_out)
    for check in within:
        if check in left_out:
            continue
        if subject.makes_its_inputs and check.name in _OF_THE_EXAMPLE:
            if check.name == _OF_THE_EXAMPLE[0]:
                yield from (Diagnosis(check, f) for f in inputs.skipped_inputs(subject))
            continue
        try:
            yield from (Diagnosis(check, finding) for finding in check.run(subject))
        except ConfigurationError as error:
            yield Diagnosis(check, Finding(Level.ERROR, str(error)))


def _left_out(checks: Sequence[Check]) -> Diagnosis:
    """One line, at the check of verl's own validation or else at the first that is left out."""
    named = next((check for check in checks if check.run is composition.check_verl), checks[0])
    names = ", ".join(check.name for check in checks)
    what = f"not checked: {names}, and whether overridden keys of verl's exist"
    return Diagnosis(named, note(what, verl_missing()))
