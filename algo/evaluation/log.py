"""What an evaluation keeps on disk, in a folder that is complete in itself.

Sealed lines in the journal's manner (`algo/judge/journal.py`): first how the model is asked
(`Protocol`), then each problem once, then a line an answer or failure, written as it arrives. An
answer that is on disk is never asked for again; a failure is, by the next run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from algo.errors import ConfigurationError, JournalError
from algo.evaluation.problems import EvalProblem, digest
from algo.judge.journal import Journal, journal_files, read_records
from algo.sealed_lines import seal

SCHEMA: Final = "ropd.eval.v1"
_STEM: Final = "answers"


@dataclass(frozen=True)
class Protocol:
    """How a model is asked: what two results must share to be compared, but for the model.

    `sets` has the digest of each set's problems (`problems.digest`), `extra_body` what else a
    request holds, such as `chat_template_kwargs`.
    """

    model: str
    sets: Mapping[str, str]
    temperature: float | None
    top_p: float | None
    max_tokens: int
    seed: int | None = None
    reasoning_effort: str | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)


class Sample(NamedTuple):
    """Which of a problem's answers: `number` counts from 0."""

    set: str
    key: str
    number: int


@dataclass(frozen=True)
class Answer:
    """What the model replied; token counts are None where the endpoint did not tell."""

    text: str
    finish_reason: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_s: float
    attempts: int


@dataclass(frozen=True)
class Failure:
    """Why there is no answer: `kind` as in `errors.FailureKind`."""

    kind: str
    message: str


@dataclass
class Held:
    """All that a folder holds. `failures` are those of samples that have no answer."""

    protocol: Protocol
    problems: dict[str, dict[str, EvalProblem]]
    """By set and key."""
    answers: dict[Sample, Answer] = field(default_factory=dict)
    failures: dict[Sample, Failure] = field(default_factory=dict)


class EvaluationLog:
    """The one writer of a folder; `held` grows with what is stored."""

    def __init__(self, journal: Journal, held: Held) -> None:
        self._journal = journal
        self.held = held

    @classmethod
    def open(
        cls, folder: Path, protocol: Protocol, sets: Mapping[str, list[EvalProblem]]
    ) -> EvaluationLog:
        """Continue the evaluation in `folder`, or begin it.

        Raises `ConfigurationError` where the folder holds another protocol's answers, and
        `JournalError` where another process writes to it or it cannot be written.
        """
        journal = Journal(folder, stem=_STEM, setting="--out")
        held = _read(folder)
        if held is None:
            held = Held(protocol, {n: {p.key: p for p in problems} for n, problems in sets.items()})
            journal.write([seal(record) for record in _opening(held)])
        elif held.protocol != protocol:
            raise ConfigurationError(
                f"{folder} holds answers that were asked for differently "
                f"({_differences(held.protocol, protocol)}): choose another --out"
            )
        return cls(journal, held)

    async def store(self, sample: Sample, result: Answer | Failure) -> None:
        """Return once `result` is on disk."""
        kind = "answer" if isinstance(result, Answer) else "failure"
        await self._journal.append({"kind": kind, **sample._asdict(), "result": asdict(result)})
        _take(self.held, sample, result)

    async def aclose(self) -> None:
        await self._journal.aclose()


def read_evaluation(folder: Path) -> Held:
    """What the evaluation in `folder` holds, while it runs too.

    Raises `ConfigurationError` where there is none, `JournalError` for a damaged line.
    """
    held = _read(folder)
    if held is None:
        raise ConfigurationError(f"{folder} holds no evaluation: `ropd eval run --out` makes one")
    return held


def _read(folder: Path) -> Held | None:
    """None for a folder in which nothing has begun, or whose beginning was torn."""
    if not journal_files(folder, _STEM):
        return None
    held: Held | None = None
    for record in read_records(folder, _STEM):
        kind = record.get("kind")
        if kind == "protocol":
            if record["schema_version"] != SCHEMA:
                raise JournalError(
                    f"{folder}: {record['schema_version']} was written by another version: this "
                    f"one reads {SCHEMA}"
                )
            # The last opening counts: an earlier one was torn, and nothing was asked after it.
            held = Held(Protocol(**record["protocol"]), {n: {} for n in record["protocol"]["sets"]})
        elif held is None:
            raise JournalError(f"{folder}: the first record is no protocol")
        elif kind == "problem":
            problem = EvalProblem(**record["problem"])
            held.problems[problem.set][problem.key] = problem
        else:
            sample = Sample(record["set"], record["key"], record["number"])
            form = Answer if kind == "answer" else Failure
            _take(held, sample, form(**record["result"]))
    return held if held is not None and _is_whole(held) else None


def _is_whole(held: Held) -> bool:
    digests = {name: digest(problems.values()) for name, problems in held.problems.items()}
    return digests == held.protocol.sets


def _take(held: Held, sample: Sample, result: Answer | Failure) -> None:
    if isinstance(result, Answer):
        held.answers[sample] = result
        held.failures.pop(sample, None)
    elif sample not in held.answers:
        held.failures[sample] = result


def _opening(held: Held) -> list[dict[str, Any]]:
    first = {"kind": "protocol", "schema_version": SCHEMA, "protocol": asdict(held.protocol)}
    problems = (problem for each in held.problems.values() for problem in each.values())
    return [first, *({"kind": "problem", "problem": asdict(problem)} for problem in problems)]


def _differences(there: Protocol, here: Protocol) -> str:
    before, now = asdict(there), asdict(here)
    changed = [name for name in before if before[name] != now[name]]
    return ", ".join(f"{name} {before[name]!r} there, {now[name]!r} here" for name in changed)
