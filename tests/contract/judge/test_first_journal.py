"""Journals of `ropd.judgement.v1` stay readable, and the same replies still give the same rewards.

`tests/fixtures/journal_v1` was recorded at commit 229e167, before methods had a seam: two groups
in each of six modes, with unusable replies, rollouts scored by rules, a group without any answer,
and two that failed. `replies.json` holds what the judge said, by what it was shown.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from algo.data.fingerprint import prompt_fingerprint
from algo.judge.journal import read_records
from algo.judge.record import FIRST_SCHEMA, JUDGEMENT_SCHEMA
from algo.judge.replay import replay
from algo.methods.registry import METHODS
from algo.ropd.pipeline import Group, Rollout
from algo.testing import FakeOpenAI, Reply, Request
from tests.builders.judging import pipeline_for
from tests.builders.patience import patience
from tests.fakes.judge import blocks

RECORDED = Path(__file__).parents[2] / "fixtures/journal_v1"
RECORDS = list(read_records(RECORDED / "judgements-00000.jsonl"))
JUDGED = [record for record in RECORDS if record["status"] == "judged"]


class Playback:
    """Says again what was said when the same question and answers were shown in the same order."""

    def __init__(self) -> None:
        self._replies = json.loads((RECORDED / "replies.json").read_text())
        self._asked: Counter[str] = Counter()

    def answer(self, request: Request) -> Reply:
        prompt = request.messages[0]["content"]
        shown = [[label, text] for label, text in blocks(prompt) if label != "RUBRIC"]
        key = hashlib.sha256(json.dumps(shown).encode()).hexdigest()
        reply = Reply(*self._replies[key][self._asked[key]])
        self._asked[key] += 1
        return reply


def test_every_recorded_reward_replays_bit_for_bit() -> None:
    replayed = list(replay(RECORDED, METHODS))
    assert len(replayed) == len(JUDGED) == 13
    assert len(RECORDS) == 15
    assert {record["schema_version"] for record in RECORDS} == {FIRST_SCHEMA}
    for each, record in zip(replayed, JUDGED, strict=True):
        assert each.exact
        assert list(each.scores) == record["scores"]
        assert list(each.teacher_scores) == record["teacher_scores"]
    assert len({score for each in replayed for score in each.scores}) > 20


@pytest.mark.parametrize("record", JUDGED, ids=lambda record: record["uid"])
async def test_the_same_replies_give_the_same_record(
    record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_key(seed: int, fingerprint: str, occurrence: int, students: Sequence[int]) -> str:
        """As a group's order was drawn then: by its uid."""
        return f"{seed}\n{record['uid']}\n{','.join(map(str, students))}"

    monkeypatch.setattr("algo.ropd.pipeline.shuffle_key", first_key)
    messages = [{"role": "user", "content": record["question"]}]
    assert prompt_fingerprint(messages) == record["fingerprint"]
    rollouts = [Rollout(each["text"], each["finished"]) for each in record["rollouts"]]
    node: dict[str, Any] = {
        "rubric": {"mode": record["rubric_mode"]},
        "verification": {"mode": record["verification_mode"], "seed": record["shuffle_seed"]},
        "rollouts": {"unfinished": "zero"},  # as every run did then
    }
    group = Group(record["uid"], messages, rollouts, record["step"])
    judge = FakeOpenAI(Playback().answer)
    async with judge.serve() as url, pipeline_for(url, tmp_path, **node) as pipeline:
        scored = await pipeline.score_group(group)
    assert list(scored.scores) == record["scores"]
    [now] = read_records(tmp_path)
    assert now["schema_version"] == JUDGEMENT_SCHEMA
    new = {"method", "occurrence", "overflow", "criteria", "rubric_weights"}
    assert now.keys() - record.keys() == new
    assert record.keys() <= now.keys()
    same = ("rules", "panels", "scores", "teacher_scores", "teachers", "rollouts", "uid", "step")
    modes = ("rubric_mode", "verification_mode", "shuffle_seed", "question", "fingerprint")
    assert {key: now[key] for key in same + modes} == {key: record[key] for key in same + modes}
    calls = [(call["stage"], call["fault"]) for call in record["calls"]]
    assert sorted((c["stage"], str(c["fault"])) for c in now["calls"]) == sorted(
        (stage, str(fault)) for stage, fault in calls
    )


def test_the_command_replays_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "algo.cli", "replay", str(RECORDED)],
        cwd=Path(__file__).parents[3],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("13 judged groups replayed, 0 differ; 2 failed groups")
