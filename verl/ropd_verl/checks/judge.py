"""The judge: each role is set, its endpoint answers, has its model and takes structured output."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from algo.openai_env import ResolvedRole, resolve_role
from algo.ropd.errors import JudgeFailure, JudgeOutage
from algo.ropd.preflight import check_judge
from algo.ropd.rubric import rubric_json_schema
from algo.ropd.scheduler import RequestScheduler
from algo.ropd.settings import RopdSettings
from ropd_verl.checks.finding import Finding, Subject, note, ok

PATIENCE_S = 60.0


def roles(subject: Subject) -> Iterable[Finding]:
    """Model, URL and key of each role, and where each was set; asks nobody."""
    judge = subject.settings.judge
    for name, settings in (("rubricator", judge.rubricator), ("verifier", judge.verifier)):
        yield ok(resolve_role(name, settings, subject.environ).line())


def endpoints(subject: Subject) -> Iterable[Finding]:
    """Says for each role what it uses and where that was set."""
    for line in asyncio.run(check_judge(subject.settings.judge, subject.environ)):
        yield ok(line)


def structured_output(subject: Subject) -> Iterable[Finding]:
    """Asks each role for one short reply under a JSON schema."""
    yield from asyncio.run(_ask_each_role(subject.settings, subject.environ))


async def _ask_each_role(settings: RopdSettings, environ: Mapping[str, str]) -> list[Finding]:
    judge = settings.judge
    roles = (
        resolve_role("rubricator", judge.rubricator, environ),
        resolve_role("verifier", judge.verifier, environ),
    )
    async with RequestScheduler(judge.limits) as scheduler:
        return [await _ask(role, scheduler) for role in roles]


async def _ask(role: ResolvedRole, scheduler: RequestScheduler) -> Finding:
    endpoint = role.endpoint
    if endpoint.settings.structured == "text":
        return note(f"{endpoint.role}: {role.prefix}.structured=text asks for none")
    rubric = {"name": "ropd_doctor", "strict": True, "schema": rubric_json_schema((1, 1))}
    schema = {"type": "json_schema", "json_schema": rubric}
    question = "Write one criterion that tells whether an answer to `1+1=?` is right."
    try:
        reply = await scheduler.complete(
            endpoint,
            [{"role": "user", "content": question}],
            response_format=schema,
            sampling={"max_tokens": endpoint.settings.max_tokens},
            deadline=PATIENCE_S,
        )
    except (JudgeFailure, JudgeOutage) as failure:
        return note(
            f"{endpoint.role}: a JSON schema is not taken ({failure.message}); replies are asked "
            "for as text and read with tolerance",
            f"set {role.prefix}.structured=text to save the attempt",
        )
    return ok(f"{endpoint.role}: takes a JSON schema ({reply.completion_tokens} tokens)")
