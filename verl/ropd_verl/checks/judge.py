"""The judge: each role is set, its endpoint answers, has its model and takes structured output."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from urllib.parse import urlsplit

from algo.asking.extraction import InvalidReply
from algo.errors import ConfigurationError
from algo.judge.ledger import check_budget, read_ledger
from algo.judge.plan import Measured, fit_budget, highest_prices, plan_judge
from algo.judge.preflight import check_judge, trial, unusable
from algo.judge.workload import workload_of
from algo.llm.endpoint import Reply, Request
from algo.llm.http.reading import OddBody, decoded
from algo.llm.http.wire import CUT_OFF, REFUSED, Fault
from algo.llm.scheduler import RequestScheduler
from algo.llm.tasks import all_of
from algo.methods.registry import method_of, roles_of
from algo.openai_env import ResolvedRole, resolve_roles
from algo.paths import absolute
from algo.ropd.rubric import parse_rubric, rubric_json_schema
from algo.ropd.settings import RopdSettings
from algo.thinking import after_thinking
from ropd_verl.checks.finding import Finding, Subject, note, ok, warning

QUESTION = Request(
    [
        {
            "role": "user",
            "content": "Write one criterion that tells whether an answer to `1+1=?` is right.",
        }
    ]
)


def roles(subject: Subject) -> Iterable[Finding]:
    """Model, URL and key of each role, and where each was set; asks nobody."""
    asked = _roles(subject.settings, subject.environ)
    if not asked:
        yield note(f"not needed: {subject.settings.method.name} asks no judge")
    for role in asked:
        yield ok(role.line())


def address(subject: Subject) -> Iterable[Finding]:
    """An endpoint on this very machine serves a run on one node alone.

    verl chooses the node of the process that asks the judge; 127.0.0.1 is another machine on each.
    """
    if subject.nodes == 1:
        return
    asked = _roles(subject.settings, subject.environ)
    for role in asked:
        host = urlsplit(role.endpoint.base_url).hostname or ""
        if host == "localhost" or (_is_ip(host) and ip_address(host).is_loopback):
            raise ConfigurationError(
                f"the {role.endpoint.role}'s endpoint {role.endpoint.base_url} "
                f"({role.base_url_from}) is another machine on each of {subject.nodes} nodes: set "
                f"{role.prefix}.base_url to an address that all of them reach"
            )
    if asked:
        yield ok(f"one address for all of {subject.nodes} nodes")


def budget(subject: Subject) -> Iterable[Finding]:
    """The budget against the estimate of `ropd plan`, and what earlier starts have spent of it."""
    settings, config = subject.settings, subject.config
    limits = settings.budget
    asked = roles_of(settings)
    check_budget(limits, asked)
    if limits.tokens is None and limits.cost is None:
        yield ok("ropd.judge.budget sets no limit")
        return
    prices = {role: each.prices for role, each in asked.items()}
    if settings.journal_dir is not None:
        spent = read_ledger(absolute(settings.journal_dir), limits, prices).spent()
        if spent is not None:
            raise ConfigurationError(spent.message)
    unknown = "ropd.judge.budget is not compared: `ropd plan` has no estimate of this run"
    if config.trainer.total_training_steps is None:
        yield note(unknown)
        return
    load = workload_of(config, settings)
    stages = method_of(settings).stages(settings, load)
    if stages is None:
        yield note(unknown)
        return
    plan = plan_judge(load, stages, Measured(dict.fromkeys(asked, 0.0)), highest_prices(asked))
    for fit in fit_budget(limits, plan, load.steps):
        if fit.suffices:
            yield ok(fit.line())
        else:
            yield warning(
                f"{fit.line()} (texts of assumed lengths)",
                f"raise {fit.setting}, or see `ropd plan` with your lengths",
            )


def endpoints(subject: Subject) -> Iterable[Finding]:
    """Says for each role what it uses and where that was set."""
    asked = _roles(subject.settings, subject.environ)
    asyncio.run(check_judge(asked, subject.settings.limits))
    for role in asked:
        yield ok(role.line())


def structured_output(subject: Subject) -> Iterable[Finding]:
    """Asks each role for one short reply under a JSON schema, and without it if that fails."""
    yield from asyncio.run(_ask_each_role(subject.settings, subject.environ))


async def _ask_each_role(settings: RopdSettings, environ: Mapping[str, str]) -> list[Finding]:
    async with RequestScheduler(settings.limits) as scheduler:
        return await all_of(_ask(role, scheduler) for role in _roles(settings, environ))


def _roles(settings: RopdSettings, environ: Mapping[str, str]) -> list[ResolvedRole]:
    return resolve_roles(roles_of(settings), environ)


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def _ask(role: ResolvedRole, scheduler: RequestScheduler) -> Finding:
    name = role.endpoint.role
    if role.endpoint.settings.structured == "text":
        return note(f"{name}: {role.prefix}.structured=text asks for none")
    rubric = {"name": "ropd_doctor", "strict": True, "schema": rubric_json_schema((1, 1))}
    schema = {"type": "json_schema", "json_schema": rubric}
    try:
        reply = await trial(role, scheduler, replace(QUESTION, response_format=schema))
    except Fault as fault:
        return await _blamed(role, scheduler, fault)
    return _kept_to(role, reply)


def _kept_to(role: ResolvedRole, reply: Reply) -> Finding:
    """Whether the reply is what the schema allows: some servers accept one and do not heed it."""
    name = role.endpoint.role
    if reply.finish_reason == CUT_OFF:
        return warning(
            f"{name}: accepts a JSON schema; its reply ended at {role.prefix}.max_tokens="
            f"{role.endpoint.settings.max_tokens} before it could be seen to keep to it",
            f"raise {role.prefix}.max_tokens",
        )
    if reply.finish_reason == REFUSED:
        return warning(f"{name}: declines to write under a JSON schema", "ask another model")
    try:
        parse_rubric(decoded(after_thinking(reply.text).encode()), (1, 1))
    except (OddBody, InvalidReply) as broken:
        return warning(
            f"{name}: accepts a JSON schema and does not keep to it ({broken})",
            f"set {role.prefix}.structured=text, by which replies are read with tolerance",
        )
    return ok(f"{name}: takes a JSON schema ({reply.completion_tokens} tokens)")


async def _blamed(role: ResolvedRole, scheduler: RequestScheduler, fault: Fault) -> Finding:
    """What a request under a schema failed for: the schema, if the same goes through without."""
    name, setting = role.endpoint.role, f"{role.prefix}.structured"
    try:
        await trial(role, scheduler, QUESTION)
    except Fault as other:
        if other.retryable and not other.refuses_key:
            return warning(
                f"{name}: no reply, under a JSON schema or without ({other.message})",
                f"see {role.prefix}.timeout_s and {role.prefix}.max_tokens, or try again",
            )
        raise unusable(role, other) from None
    if fault.retryable:
        return warning(
            f"{name}: a reply came without a JSON schema and none under one ({fault.message})",
            f"try again; where it stays so, set {setting}=text",
        )
    refused = f"{name}: a JSON schema is not taken ({fault.message})"
    if role.endpoint.settings.structured == "json_schema":
        raise ConfigurationError(f"{refused}, and {setting}=json_schema insists: set it to auto")
    if not fault.about_schema:
        # The run gives the schema up only where it is named: a 400 may be about anything.
        return warning(f"{refused}, and not named as the reason", f"set {setting}=text")
    return note(
        f"{refused}; replies are asked for as text and read with tolerance",
        f"set {setting}=text to save the attempt",
    )
