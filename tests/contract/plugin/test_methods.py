"""What a method does not use is neither opened nor checked nor served; what it needs is checked."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from verl import DataProto

from algo.errors import ConfigurationError
from algo.judge.group import Group
from ropd_verl import agent_loop, train
from ropd_verl.checks import composition, doctor, start
from ropd_verl.checks.finding import Level, Reach
from ropd_verl.config import compose_config, key_lines
from ropd_verl.methods import rlvr
from ropd_verl.ray_actors import class_behind
from ropd_verl.reward_manager import GROUP_KEY, RopdRewardManager
from tests.builders.checking import ROWS, subject

NO_JUDGE = ("ropd.judge.rubricator.model=null", "ropd.judge.verifier.model=null")
NO_INDEX = ("ropd.teacher_index=null",)


class Tokenizer:
    """Token k is the character k."""

    def decode(self, ids: torch.Tensor, skip_special_tokens: bool) -> str:
        return "".join(map(chr, ids.tolist()))


def rollout(text: str, truth: str | None = "42") -> DataProto:
    """The request that verl makes of one rollout, padded."""
    ids = [*map(ord, text), 0, 0]
    return DataProto.from_dict(
        tensors={"responses": torch.tensor([ids])},
        non_tensors={
            "data_source": ["arithmetic"],
            "response_len": [len(text)],
            "reward_model": [{"ground_truth": truth}],
        },
    )


def manager(tmp_path: Path) -> RopdRewardManager:
    overrides = ["method=rlvr", f"ropd.journal_dir={tmp_path}/journal", "reward.num_workers=2"]
    config = compose_config("ropd_cpu", [*overrides, f"ropd.teacher_index={tmp_path}/none"])
    made = RopdRewardManager(config, Tokenizer())
    assert not (tmp_path / "journal").exists()
    return made


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("1+1+0=2;answer 42", 1.0),
        ("1+1+0=2;answer 43", 0.0),
        ("1+1+0=2;ans", 0.0),
        ("", 0.0),
        ("<think>answer 42", 0.0),
        ("<think>answer 43</think>answer 42", 1.0),
        ("answer 42, no: answer 41", 0.0),
    ],
)
def test_a_training_rollout_is_graded_as_validation_grades_it(
    tmp_path: Path, text: str, reward: float
) -> None:
    made = manager(tmp_path)
    scored = asyncio.run(made.run_single(rollout(text)))
    assert scored["reward_score"] == reward
    assert scored["reward_extra_info"] == {"acc": reward, "judgement_id": "", "rule": ""}
    assert made.metrics() == {}
    assert made.judging_spans() == {}
    made.raise_if_ended()


def test_a_row_that_cannot_be_graded_ends_the_run(tmp_path: Path) -> None:
    made = manager(tmp_path)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="ground_truth"):
            asyncio.run(made.run_single(rollout("answer 42", truth=None)))
    with pytest.raises(ConfigurationError, match="ground_truth"):
        made.raise_if_ended()


def test_a_group_that_comes_to_a_method_without_a_judge_is_no_score(tmp_path: Path) -> None:
    group = DataProto(None, {}, {GROUP_KEY: Group("u", [], [], 0)})
    with pytest.raises(ConfigurationError, match="method without a judge"):
        asyncio.run(manager(tmp_path).run_single(group))


def test_its_manager_starts_a_worker_without_a_barrier() -> None:
    made = object.__new__(rlvr.GradingManager)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rlvr.AgentLoopManagerTQ, "__init__", lambda self, *a, **k: None)
        rlvr.GradingManager.__init__(made)
    worker = class_behind(made.agent_loop_workers_class)
    assert issubclass(worker, agent_loop.SamplingWorker)
    assert not issubclass(worker, agent_loop.GroupScoringWorker)


@pytest.mark.parametrize("kind", [agent_loop.SamplingWorker, agent_loop.GroupScoringWorker])
def test_a_validation_row_is_sampled_in_its_own_way(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    async def run(
        self: Any, prompt: dict, sampling: dict, trajectory: dict, trace: bool = False
    ) -> None:
        seen.append(sampling)

    monkeypatch.setattr(agent_loop._Worker, "_run_prompt", run)
    worker: Any = object.__new__(kind)
    prompt = {"extra_info": {"sampling": {"temperature": 0.0, "top_p": None}}}
    asyncio.run(worker._run_prompt(prompt, {"temperature": 1.0, "top_p": 0.9}, {"validate": True}))
    assert seen == [{"temperature": 0.0, "top_p": 0.9}]


@pytest.mark.parametrize(
    ("overrides", "made", "served"),
    [
        ([], 4, ["rubricator", "verifier"]),
        (["method=tjudge"], 0, ["verifier"]),
        (["method=tjudge", "ropd.method.reference=teacher"], 4, ["verifier"]),
        (["method=ovd"], 0, ["verifier"]),
        (["method=rlvr"], 0, []),
    ],
)
def test_the_example_makes_and_serves_what_the_method_uses(
    overrides: list[str], made: int, served: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[Mapping[str, Any]] = []

    @contextmanager
    def serve(settings: Mapping[str, Any]) -> Iterator[str]:
        assert served
        yield "http://served/v1"

    hook = SimpleNamespace(prepare=prepared.append, serve=serve)
    monkeypatch.setitem(sys.modules, "examples.made_up", hook)  # pyright: ignore
    config = compose_config("ropd_cpu", ["example.hook=examples.made_up", *overrides])
    with train._example(config):
        roles = config.ropd.judge
        urls = {role: roles[role].get("base_url") for role in ("rubricator", "verifier")}
    assert [settings["teacher_answers"] for settings in prepared] == [made]
    assert [role for role, url in urls.items() if url] == served


def findings(overrides: list[str]) -> dict[str, list[tuple[Level, str]]]:
    found: dict[str, list[tuple[Level, str]]] = {}
    for each in doctor.examine(compose_config("ropd", overrides), {}, Reach.MACHINE):
        found.setdefault(each.check.name, []).append((each.finding.level, each.finding.what))
    return found


def test_rlvr_needs_neither_judge_nor_index_but_ground_truth(
    whole: list[str], tmp_path: Path
) -> None:
    overrides = [*whole, "method=rlvr", *NO_JUDGE, *NO_INDEX]
    found = findings(overrides)
    assert not [what for each in found.values() for level, what in each if level is Level.ERROR]
    assert found["ground truth"] == [(Level.OK, "every training prompt can be graded")]
    assert found["judge settings"] == [(Level.NOTE, "not needed: rlvr asks no judge")]
    assert "judge address" not in found
    assert "context" not in found

    rows = [*ROWS, {**ROWS[0], "reward_model": {"style": "rule", "ground_truth": " "}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    [(level, what)] = findings(overrides)["ground truth"]
    assert level is Level.ERROR
    assert "row 4 has no reward_model.ground_truth" in what
    assert "ropd data check --validation" in what
    with pytest.raises(ConfigurationError, match="row 4 has no reward_model"):
        start.check(compose_config("ropd", overrides), {})

    odd = [{**row, "data_source": "essays"} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(odd), tmp_path / "train.parquet")
    [(level, what)] = findings(overrides)["ground truth"]
    assert "no rule grades row 0" in what
    # A judged method trains on what nobody can grade.
    assert "ground truth" not in findings(whole)


@pytest.mark.parametrize("method", ["tjudge", "ovd"])
def test_a_grader_needs_the_verifier_alone(whole: list[str], method: str) -> None:
    given = [o for o in whole if "rubricator" not in o]
    found = findings([*given, f"method={method}", *NO_INDEX])
    assert not [what for each in found.values() for level, what in each if level is Level.ERROR]
    assert [what for _, what in found["judge settings"] if "rubricator" in what] == []
    assert found["teacher index"][0][0] is Level.NOTE
    missing = findings([o for o in given if "verifier.model" not in o] + [f"method={method}"])
    assert "ROPD_VERIFIER_MODEL" in missing["judge settings"][0][1]


def test_references_need_the_index(whole: list[str]) -> None:
    shown = ["method=tjudge", "ropd.method.reference=teacher"]
    assert findings([*whole, *shown])["teacher index"][0][0] is Level.OK
    [(level, what)] = findings([*whole, *shown, *NO_INDEX])["teacher index"]
    assert level is Level.ERROR
    assert "ropd.teacher_index is not set" in what


@pytest.mark.parametrize(
    ("overrides", "method"),
    [(["ropd.method.name=rlvr"], "rlvr"), (["method=rlvr", "ropd.method.name=ropd"], "ropd")],
)
def test_a_method_without_its_worker_is_refused(overrides: list[str], method: str) -> None:
    with pytest.raises(ConfigurationError, match=f"choose by method={method}"):
        list(composition.check_method(subject(*overrides)))


@pytest.mark.parametrize(
    ("method", "shown"), [("ropd", (5, 5)), ("tjudge", (1,)), ("ovd", (1,)), ("rlvr", ())]
)
def test_the_context_is_compared_with_what_a_method_shows_at_once(
    method: str, shown: tuple[int, ...]
) -> None:
    made = subject(f"method={method}", "ropd.teacher_answers=1", "actor_rollout_ref.rollout.n=4")
    found = [each.what for each in composition.check_judge_context(made)]
    assert len(found) == len(shown)
    for count, what in zip(shown, found, strict=True):
        assert f"for {count} answers" in what


@pytest.mark.parametrize(
    ("method", "hidden"),
    [
        ("ropd", ()),
        ("tjudge", ("ropd.rubric.mode", "ropd.teacher_index", "ropd.judge.rubricator.model")),
        ("rlvr", ("ropd.rubric.mode", "ropd.teacher_index", "ropd.judge.verifier.model")),
    ],
)
def test_a_dry_run_shows_what_the_method_reads(method: str, hidden: tuple[str, ...]) -> None:
    shown = {
        line.partition(":")[0] for line in key_lines(compose_config("ropd", [f"method={method}"]))
    }
    assert "ropd.method.name" in shown
    assert not shown & set(hidden)
    assert ("ropd.rubric.mode" in shown) is (method == "ropd")
