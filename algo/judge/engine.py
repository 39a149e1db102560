"""Judges groups under one method, and puts every judgement on disk before its scores are used.

    async with open_engine(Ropd, settings, os.environ) as engine:
        scored = await engine.score_group(Group("group-1", messages, rollouts, step=0))

A group that cannot be judged raises `JudgeFailure` and has no score; a judge that cannot be used
any more raises `JudgeOutage`. What a method does with a group is its own module's part.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from algo.asking.templates import question_text
from algo.asking.tokens import tokenizer_file
from algo.data.fingerprint import prompt_fingerprint
from algo.errors import BudgetSpent, ConfigurationError, JudgeFailure, JudgeOutage
from algo.judge.books import Books
from algo.judge.gate import QualityGate
from algo.judge.group import Group, Unfinished
from algo.judge.journal import Journal
from algo.judge.ledger import Spending, check_budget
from algo.judge.method import (
    Judgement,
    Method,
    Resources,
    ScoredGroup,
    SettingsT,
    TeacherAnswers,
)
from algo.judge.metrics import Tally, group_figures
from algo.judge.preflight import check_roles
from algo.judge.record import Setup, failed_record, judged_record, record_texts
from algo.judge.settings import EngineSettings
from algo.llm.endpoint import Endpoint
from algo.llm.scheduler import RequestScheduler, closed_outage
from algo.openai_env import ResolvedRole, resolve_roles
from algo.teacher.draw import DrawnAnswers
from algo.teacher.teacher_index import TeacherIndex

logger = logging.getLogger(__name__)

_PATIENCE_S: Final = 10.0
"""At the end, for groups whose requests have ended: what is left is arithmetic and one fsync."""


class Engine:
    """Judges groups, any number at a time. Use `async with`, or `aclose` at the end."""

    def __init__(
        self,
        method: Method[Any],
        settings: EngineSettings,
        roles: Sequence[ResolvedRole],
        scheduler: RequestScheduler,
        journal: Journal,
    ) -> None:
        endpoints = [role.endpoint for role in roles]
        self._method = method
        self._roles = roles
        self._scheduler = scheduler
        self._journal = journal
        self._unfinished: Unfinished = settings.rollouts.unfinished
        for template in method.templates():
            journal.keep_file(template.text.encode(), ".txt")
        kept = _keep_tokenizers(journal, endpoints)
        self._setup = Setup(method.name, method.setup(), endpoints, kept)
        self._tally = Tally(endpoints)
        ledger = Spending(settings.budget, {each.role: each.settings.prices for each in endpoints})
        self._books = Books(journal, self._setup, self._tally, ledger, scheduler)
        method.note = self._books.note
        self._gate = QualityGate(settings.gate, settings.limits.outage_s)
        self._closed = False
        self._at_work = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def score_group(self, group: Group) -> ScoredGroup:
        """Judge one group: `scores[i]` in [0, 1] for each of its n rollouts, in their order.

        Raises `JudgeFailure` (the group leaves the batch), `JudgeOutage` or `JournalError` (the
        run must stop). A closed engine raises `JudgeOutage`.
        """
        async with self._gate.passage():
            try:
                async with self._working():
                    return await self._score(group)
            except BudgetSpent:
                await self._until_idle()  # the run ends by this: let the others reach the disk
                raise

    async def _score(self, group: Group) -> ScoredGroup:
        if self._books.broken is not None:
            raise self._books.broken
        fingerprint = prompt_fingerprint(group.messages)
        occurrences = self._books.occurrences
        judgement = Judgement(
            group,
            fingerprint,
            question_text(group.messages),
            unfinished=self._unfinished,
            occurrence=occurrences.take(fingerprint),
        )
        try:
            scored = await self._judge(judgement)
        except BaseException:
            occurrences.give_back(fingerprint, judgement.occurrence)
            raise
        self._tally.judged(
            judgement, group_figures(judgement, scored), self._method.figures(scored)
        )
        if any(rule is None for rule in scored.rules):  # else no judge was asked
            self._gate.judged()
        return scored

    async def _judge(self, judgement: Judgement) -> ScoredGroup:
        """The scores, once they are on disk; raises what a failure, on disk too, amounts to."""
        try:
            await self._method.begin_group(judgement.group.step)
            judgement.panels = tuple(await self._method.panels(judgement))
        except (JudgeFailure, JudgeOutage) as failure:
            logger.warning("group %s could not be judged: %s", judgement.group.uid, failure)
            record = failed_record(judgement, failure, self._setup)
            await self._journal.append(record, record_texts(judgement))
            self._tally.failed(failure.kind, judgement.transcript)
            raise self._what_now(failure) from None
        scored = ScoredGroup.of(judgement)
        record = judged_record(judgement, scored, self._setup)
        await self._journal.append(record, record_texts(judgement))
        return scored

    def _what_now(self, failure: JudgeFailure | JudgeOutage) -> JudgeFailure | JudgeOutage:
        """The failure itself, or the outage it adds up to with those before it."""
        outage = failure if isinstance(failure, JudgeOutage) else self._gate.group_failed(failure)
        if outage is None:
            return failure
        self._scheduler.stop(outage)
        return outage

    async def check(self) -> None:
        """Try each role's endpoint as the run will use it; raises `ConfigurationError` within about
        a minute if it cannot be used. Logs one line a role: where its settings came from."""
        for role in self._roles:
            logger.info(role.line())
        await check_roles(self._roles, self._scheduler)

    def metrics(self) -> dict[str, float]:
        """What happened since the last call, under names that begin with `ropd/`."""
        figures = self._tally.drain(self._scheduler.drain_counters())
        return figures | self._method.drain_metrics()

    async def aclose(self) -> None:
        """End what is at work: each group gets `JudgeOutage` once the replies that it had, which
        are paid, are in the journal."""
        self._closed = True
        await self._scheduler.aclose()
        await self._until_idle()
        await self._books.aclose()
        await self._journal.aclose()

    async def _until_idle(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._idle.wait()
        except TimeoutError:
            logger.warning(
                "%d groups were still at work %g s after the last reply: they are not in the "
                "journal",
                self._at_work,
                _PATIENCE_S,
            )

    @asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        if self._closed:
            raise closed_outage()
        self._at_work += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._idle.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def open_engine(
    kind: type[Method[SettingsT]],
    settings: SettingsT,
    environ: Mapping[str, str],
    teachers: TeacherAnswers | None = None,
) -> Engine:
    """An engine that judges by the method `kind`, short of reaching its endpoints.

    Opened is what the method asks for and nothing else; `teachers` replaces the index at
    `settings.teacher_index`. Raises `ConfigurationError`, `TeacherIndexError` or `JournalError`.
    """
    if settings.journal_dir is None:
        raise ConfigurationError("ropd.journal_dir is not set: name a folder for the judgements")
    check_budget(settings.budget, kind.roles(settings))
    roles = resolve_roles(kind.roles(settings), environ)
    scheduler = RequestScheduler(settings.limits)
    resources = Resources(
        roles={role.endpoint.role: role for role in roles},
        scheduler=scheduler,
        teachers=_teachers(kind, settings, teachers),
        teacher_answers=settings.teacher_answers,
    )
    method = kind(settings, resources)
    journal = Journal(settings.journal_dir)
    return Engine(method, settings, roles, scheduler, journal)


def _teachers(
    kind: type[Method[SettingsT]], settings: SettingsT, given: TeacherAnswers | None
) -> TeacherAnswers | None:
    if given is not None or not kind.needs_teachers(settings):
        return given
    if settings.teacher_index is None:
        raise ConfigurationError(
            "ropd.teacher_index is not set: name the file made by `ropd teacher build`"
        )
    return DrawnAnswers(TeacherIndex.open(settings.teacher_index), settings.teacher_seed)


def _keep_tokenizers(journal: Journal, endpoints: Sequence[Endpoint]) -> dict[str, str]:
    """The sha256 of each role's tokenizer, a copy of which goes into the journal's folder."""
    files = {
        endpoint.role: tokenizer_file(endpoint.role, endpoint.settings.tokenizer)
        for endpoint in endpoints
        if endpoint.settings.tokenizer is not None
    }
    return {role: journal.keep_file(file.read_bytes(), ".json") for role, file in files.items()}
