"""One journal record laid out for the page: pure functions from a record to what is shown of it.

Rewards are shown as recorded, beside what the evidence gives. Texts are cut to a limit, never
interpreted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Final

from algo.judge.group import Rule
from algo.judge.method import Panel
from algo.judge.record import COMMON_KEYS, recorded_rollout, sha256
from algo.judge.replay import method_of, replay_record
from algo.methods.registry import METHODS
from algo.report.text import Excerpt, excerpt
from algo.ropd.rubric import Criterion, Verdict, weighted_pass_rate
from algo.ropd.scoring import RubricPanel
from algo.thinking import without_thinking

_RULES: Final[Mapping[str, str]] = {
    Rule.UNFINISHED: "it was cut off at the token limit",
    Rule.DROPPED: "it was cut off at the token limit, and is left out of its group and of the loss",
    Rule.UNCLOSED_THINK: "its think block was never closed, so no answer follows it",
    Rule.EMPTY: "there is nothing but white space and punctuation in its answer",
}


@dataclass(frozen=True)
class AnswerColumn:
    """One judged answer in a panel's table: `T1` is a teacher's, `R1` a rollout's."""

    label: str
    teacher: bool
    shown_as: int
    """Under which number, from 1, the Verifier saw it."""
    verdict: Verdict
    earned: int
    """Points of the satisfied criteria."""
    score: float
    """As the booleans give it."""


@dataclass(frozen=True)
class CriterionRow:
    """A criterion with its verdict on each column's answer."""

    criterion: Criterion
    text: Excerpt
    cells: tuple[tuple[bool, bool], ...]
    """(verdict, whether the answer is a teacher's) for each column."""
    met_by: int
    """How many of the rollouts satisfy it."""


@dataclass(frozen=True)
class PanelView:
    columns: tuple[AnswerColumn, ...]
    rows: tuple[CriterionRow, ...]
    rollouts: int
    total: int


@dataclass(frozen=True)
class EvidenceView:
    """A panel of a method without rubrics: how its scores came about, and what was recorded."""

    scores: tuple[tuple[str, str], ...]
    """(the rollouts that have it, the score spelled out)."""
    evidence: Excerpt


@dataclass(frozen=True)
class RolloutView:
    label: str
    score: float
    """The recorded reward, which the run used."""
    recomputed: float
    sum: str | None
    """The reward spelled out from its evidence, where it has any."""
    rule: str | None
    rule_meaning: str | None
    missed: tuple[Criterion, ...]
    thinking: Excerpt | None
    thinking_length: int
    answer: Excerpt
    text_intact: bool
    """The text still has its recorded hash."""

    @property
    def faithful(self) -> bool:
        return self.score == self.recomputed and self.text_intact


@dataclass(frozen=True)
class TeacherView:
    """A teacher answer; `score` is None where it was not verified, `text` where it is not known."""

    label: str
    score: float | None
    text: Excerpt | None


@dataclass(frozen=True)
class CallView:
    """One request to a judge; `facts` is empty and `raw` None where no reply came."""

    stage: str
    fault: Excerpt | None
    facts: tuple[tuple[str, str], ...]
    raw: Excerpt | None


@dataclass(frozen=True)
class GroupView:
    anchor: str
    record: Mapping[str, Any]
    question: Excerpt
    exact: bool
    panels: tuple[PanelView, ...]
    evidence: tuple[EvidenceView, ...]
    rollouts: tuple[RolloutView, ...]
    teachers: tuple[TeacherView, ...]
    calls: tuple[CallView, ...]
    failure: Mapping[str, Any] | None
    failure_message: Excerpt | None
    setup: tuple[tuple[str, str], ...]
    """How the method was set: name and value."""

    @property
    def attempts(self) -> int:
        return sum(call.get("attempts", 1) for call in self.record["calls"])


def view(
    position: int, record: Mapping[str, Any], teacher_texts: Mapping[str, str], limit: int
) -> GroupView:
    """What is shown of one record, each text cut to `limit` characters.

    `teacher_texts` has teacher answers by hash, as far as they are known.
    """
    failure = record.get("failure")
    replayed = None if failure else replay_record(record, METHODS)
    panels = replayed.panels if replayed else ()
    rubrics = [panel for panel in panels if isinstance(panel, RubricPanel)]
    others = [panel for panel in panels if not isinstance(panel, RubricPanel)]
    recomputed = replayed.scores if replayed else ()
    return GroupView(
        anchor=f"group-{position}",
        record=record,
        question=excerpt(record["question"], limit),
        exact=replayed is None or replayed.exact,
        panels=tuple(_panel(panel, limit) for panel in rubrics),
        evidence=tuple(_evidence(panel, limit) for panel in others),
        rollouts=_rollouts(record, panels, recomputed, limit),
        teachers=_teachers(record, teacher_texts, limit),
        calls=tuple(_call(call, limit) for call in record["calls"]),
        failure=failure,
        failure_message=excerpt(failure["message"], limit) if failure else None,
        setup=tuple(_setup(record)),
    )


def _panel(panel: RubricPanel, limit: int) -> PanelView:
    columns = _columns(panel)
    rows = tuple(
        CriterionRow(
            criterion=criterion,
            text=excerpt(criterion.criterion, limit),
            cells=tuple((column.verdict[k], column.teacher) for column in columns),
            met_by=sum(verdict[k] for verdict in panel.student_verdicts),
        )
        for k, criterion in enumerate(panel.rubric.criteria)
    )
    return PanelView(columns, rows, len(panel.students), panel.rubric.total)


def _evidence(panel: Panel, limit: int) -> EvidenceView:
    by_score: dict[str, list[str]] = {}
    for index, spelled in zip(panel.students, panel.spelled(), strict=True):
        by_score.setdefault(spelled, []).append(f"R{index + 1}")
    scores = tuple((", ".join(labels), spelled) for spelled, labels in by_score.items())
    written = json.dumps(panel.record(), ensure_ascii=False)
    return EvidenceView(scores, excerpt(written, limit))


def _setup(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a record holds beside the keys that every method's has."""
    yield "method", method_of(record)
    for key, value in record.items():
        if key in COMMON_KEYS:
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {str(entry)[:12]}" for name, entry in value.items())
        yield key.replace("_", " "), str(value)[:100]


def _columns(panel: RubricPanel) -> tuple[AnswerColumn, ...]:
    """The rollouts first, then the teachers; the pool that was shuffled has the teachers first."""
    m = len(panel.teacher_verdicts)
    students = zip(panel.students, panel.student_verdicts, strict=True)
    answers = [
        (f"R{index + 1}", False, m + k, verdict) for k, (index, verdict) in enumerate(students)
    ] + [(f"T{k + 1}", True, k, verdict) for k, verdict in enumerate(panel.teacher_verdicts)]
    points = [criterion.points for criterion in panel.rubric.criteria]
    return tuple(
        AnswerColumn(
            label=label,
            teacher=teacher,
            shown_as=panel.shown_as(pool),
            verdict=verdict,
            earned=sum(compress(points, verdict)),
            score=weighted_pass_rate(panel.rubric, verdict),
        )
        for label, teacher, pool, verdict in answers
    )


def _rollouts(
    record: Mapping[str, Any],
    panels: Sequence[Panel],
    recomputed: Sequence[float],
    limit: int,
) -> tuple[RolloutView, ...]:
    """The judged rollouts; those of a failed group have no reward and are left to the journal."""
    if not recomputed:
        return ()
    sums = {
        index: spelled
        for panel in panels
        for index, spelled in zip(panel.students, panel.spelled(), strict=True)
    }
    missed = _missed(panel for panel in panels if isinstance(panel, RubricPanel))
    return tuple(
        _rollout(
            index,
            record["rollouts"][index],
            rule,
            (score, recomputed[index]),
            sums.get(index),
            missed.get(index, ()),
            limit,
        )
        for index, (score, rule) in enumerate(zip(record["scores"], record["rules"], strict=True))
    )


def _missed(panels: Iterable[RubricPanel]) -> dict[int, tuple[Criterion, ...]]:
    """By rollout, the criteria that it does not satisfy."""
    return {
        index: tuple(
            criterion
            for criterion, satisfied in zip(panel.rubric.criteria, verdict, strict=True)
            if not satisfied
        )
        for panel in panels
        for index, verdict in zip(panel.students, panel.student_verdicts, strict=True)
    }


def _rollout(
    index: int,
    rollout: Mapping[str, Any],
    rule: str | None,
    scores: tuple[float, float],
    spelled: str | None,
    missed: tuple[Criterion, ...],
    limit: int,
) -> RolloutView:
    """`scores` as recorded and as recomputed."""
    recorded = recorded_rollout(rollout)
    answer = without_thinking(recorded.text, recorded.thinks)
    thinking = recorded.text[: len(recorded.text) - len(answer)]
    return RolloutView(
        label=f"R{index + 1}",
        score=scores[0],
        recomputed=scores[1],
        sum=spelled,
        rule=rule,
        rule_meaning=None if rule is None else _RULES.get(rule),
        missed=missed,
        thinking=excerpt(thinking, limit) if thinking else None,
        thinking_length=len(thinking),
        answer=excerpt(answer, limit),
        text_intact=sha256(rollout["text"]) == rollout["sha256"],
    )


def _teachers(
    record: Mapping[str, Any], texts: Mapping[str, str], limit: int
) -> tuple[TeacherView, ...]:
    scores = record.get("teacher_scores", ())
    known = [texts.get(teacher["sha256"]) for teacher in record["teachers"]]
    return tuple(
        TeacherView(
            label=f"T{k + 1}",
            score=scores[k] if k < len(scores) else None,
            text=None if text is None else excerpt(text, limit),
        )
        for k, text in enumerate(known)
    )


def _call(call: Mapping[str, Any], limit: int) -> CallView:
    fault = None if call["fault"] is None else excerpt(call["fault"], limit)
    if "raw" not in call:
        return CallView(call["stage"], fault, (), None)
    facts = [
        ("model", call["model"]),
        ("finished", call["finish_reason"]),
        ("attempts", call["attempts"]),
        ("latency", f"{call['latency_s']:.3f} s"),
        ("prompt tokens", call["prompt_tokens"]),
        ("reply tokens", call["completion_tokens"]),
    ]
    if call["cut_characters"]:
        facts.append(("cut out of the prompt to fit the context", call["cut_characters"]))
    if call["length"] > len(call["raw"]):
        facts.append(("characters in all, of which the journal kept a part", call["length"]))
    shown = tuple((name, "unknown" if value is None else str(value)) for name, value in facts)
    return CallView(call["stage"], fault, shown, excerpt(call["raw"], limit))
