"""Checks of the judge: what it is asked before a run, and who can reach it."""

from __future__ import annotations

from pathlib import Path

import pytest

from algo.errors import ConfigurationError
from algo.judge import preflight
from ropd_verl.checks import judge
from ropd_verl.checks.finding import Level, Subject
from tests.builders.checking import levels, subject
from tests.builders.judging import group, pipeline_for
from tests.fakes.judge import ONE_CRITERION, FakeJudge


def asking(url: str, *overrides: str, **values: object) -> Subject:
    """A configuration whose both roles are at `url`."""
    keys = {"base_url": f"'{url}'", "model": "fake", "api_key_env": "null", **values}
    roles = ("rubricator", "verifier")
    judges = (f"ropd.judge.{r}.{k}={v}" for r in roles for k, v in keys.items())
    return subject(*overrides, *judges)


@pytest.mark.parametrize(("takes_schema", "level"), [(True, Level.OK), (False, Level.NOTE)])
async def test_structured_output_is_tried_with_each_role(takes_schema: bool, level: Level) -> None:
    fake = FakeJudge(json_schema=takes_schema)
    async with fake.serve() as url:
        found = await judge._ask_each_role(asking(url).settings, {})
    assert levels(found) == [level, level]
    asked = ["response_format" in body for body in fake.bodies]
    assert (asked.count(True), asked.count(False)) == (2, 0 if takes_schema else 2)
    assert {body["max_tokens"] for body in fake.bodies} == {4096, 8192}  # as in the run


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (("yes", "stop"), "does not keep to it (it is not JSON)"),
        (("{}", "stop"), "does not keep to it"),
        (('{"schema_version": "ropd.rubric.v1", "rubrics": []}', "stop"), "0 criteria"),
        ((f"Sure: {ONE_CRITERION}", "stop"), "does not keep to it"),
        (("", "stop"), "does not keep to it"),
        ((ONE_CRITERION[:20], "length"), "max_tokens=4096 before"),
        (("no", "content_filter"), "declines"),
    ],
)
@pytest.mark.parametrize("api", ["chat_completions", "responses"])
async def test_a_schema_that_is_accepted_and_not_kept_to_is_a_warning(
    reply: tuple[str, str], said: str, api: str
) -> None:
    async with FakeJudge(schema_reply=reply).serve() as url:
        found = await judge._ask_each_role(asking(url, api=api).settings, {})
    assert levels(found) == [Level.WARNING] * 2
    assert said in found[1].what
    assert "takes a JSON schema" not in found[1].what


async def test_thinking_before_the_reply_breaks_no_schema() -> None:
    async with FakeJudge(schema_reply=(f"<think>1?</think>{ONE_CRITERION}", "stop")).serve() as url:
        found = await judge._ask_each_role(asking(url).settings, {})
    assert levels(found) == [Level.OK] * 2


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ("temperature", r"\.temperature=null leaves temperature out"),
        ("max_tokens", r"\.max_tokens_key is the name"),
    ],
)
async def test_the_schema_is_not_blamed_for_what_else_is_refused(refused: str, said: str) -> None:
    async with FakeJudge(refuses=refused).serve() as url:
        with pytest.raises(ConfigurationError, match=said) as caught:
            await judge._ask_each_role(asking(url).settings, {})
    assert "schema" not in str(caught.value)


async def test_a_schema_that_is_refused_for_no_reason_given_is_a_warning() -> None:
    def fault(role: str, number: int) -> str:
        return "http_400" if "response_format" in fake.bodies[-1] else ""

    fake = FakeJudge(fault=fault)
    async with fake.serve() as url:
        found = await judge._ask_each_role(asking(url).settings, {})
    assert levels(found) == [Level.WARNING] * 2
    assert found[1].fix == "set ropd.judge.verifier.structured=text"


async def test_a_judge_that_insists_on_a_schema_must_have_it() -> None:
    async with FakeJudge(json_schema=False).serve() as url:
        with pytest.raises(ConfigurationError, match=r"structured=json_schema insists"):
            await judge._ask_each_role(asking(url, structured="json_schema").settings, {})


async def test_silence_is_not_taken_for_a_refused_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "TRIAL_PATIENCE_S", 0.3)
    async with FakeJudge(fault=lambda role, number: "hang").serve() as url:
        found = await judge._ask_each_role(asking(url).settings, {})
    assert levels(found) == [Level.WARNING] * 2
    assert "timeout_s" in found[0].fix


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1", "localhost", "[::1]"])
def test_a_judge_on_this_machine_serves_no_run_on_several_nodes(host: str) -> None:
    url = f"http://{host}:8000/v1"
    with pytest.raises(ConfigurationError, match=r"another machine on each of 2 nodes: set ropd"):
        list(judge.address(asking(url, "hardware=multinode")))
    assert list(judge.address(asking(url))) == []


@pytest.mark.parametrize("host", ["10.0.0.7", "judge.cluster", "[fd00::7]"])
def test_a_judge_that_every_node_reaches_does(host: str) -> None:
    found = judge.address(asking(f"http://{host}:8000/v1", "hardware=multinode"))
    assert levels(found) == [Level.OK]


def test_a_budget_below_the_plan_is_a_warning() -> None:
    [found] = judge.budget(subject("ropd.judge.budget.tokens=1000"))
    assert found.level is Level.WARNING
    assert "ropd.judge.budget.tokens=1,000 is below the estimate" in found.what
    assert levels(judge.budget(subject("ropd.judge.budget.tokens=1000000000000"))) == [Level.OK]
    assert levels(judge.budget(subject())) == [Level.OK]


def test_a_budget_in_money_without_prices_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"ropd\.judge\.budget\.cost=3 and no role"):
        list(judge.budget(subject("ropd.judge.budget.cost=3")))
    priced = subject("ropd.judge.budget.cost=3", "ropd.judge.verifier.prices.output=10")
    assert levels(judge.budget(priced)) == [Level.WARNING]


async def test_a_run_whose_budget_is_spent_does_not_start_again(tmp_path: Path) -> None:
    async with FakeJudge().serve() as url, pipeline_for(url, tmp_path) as pipeline:
        await pipeline.score_group(group(1))  # 2 replies of 120 tokens
    folder = f"ropd.journal_dir={tmp_path}"
    with pytest.raises(ConfigurationError, match=r"240 tokens in all starts.*to go on, raise it"):
        list(judge.budget(subject(folder, "ropd.judge.budget.tokens=240")))
    assert levels(judge.budget(subject(folder, "ropd.judge.budget.tokens=241"))) == [Level.WARNING]
