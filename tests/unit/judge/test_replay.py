"""The replay of what a journal holds: the very bits, or a difference that is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from algo.errors import JournalError
from algo.judge.journal import Journal
from algo.judge.replay import replay, replay_record
from algo.methods.registry import METHODS


def judged_record() -> dict[str, Any]:
    criterion = {"category": "a", "criterion": "b"}
    text_hash = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # "x"
    rollout = {"text": "x", "sha256": text_hash, "finished": True}
    return {
        "schema_version": "ropd.judgement.v1",
        "judgement_id": "j",
        "uid": "u",
        "status": "judged",
        "rollouts": [rollout, rollout, rollout],
        "panels": [
            {
                "rubric": [
                    {**criterion, "criterion_id": f"c{k}", "points": k} for k in range(1, 4)
                ],
                "students": [0, 2],
                "order": [2, 0, 1],
                "teacher_verdicts": [[True, True, False]],
                "student_verdicts": [[True, False, False], [False, True, True]],
            }
        ],
        "scores": [1 / 6, 0.0, 5 / 6],
        "teacher_scores": [0.5],
    }


def test_replay_recomputes_the_very_bits() -> None:
    replayed = replay_record(json.loads(json.dumps(judged_record())), METHODS)
    assert replayed.scores == (1 / 6, 0.0, 5 / 6)
    assert replayed.exact


@pytest.mark.parametrize(
    ("key", "value"),
    [("scores", [1 / 6 + 1e-16, 0.0, 5 / 6]), ("teacher_scores", [0.4])],
)
def test_replay_notices_a_reward_that_the_booleans_do_not_give(key: str, value: Any) -> None:
    assert not replay_record({**judged_record(), key: value}, METHODS).exact


def test_replay_notices_a_text_that_was_changed() -> None:
    record = judged_record()
    record["rollouts"][1] = {**record["rollouts"][1], "text": "y"}
    assert not replay_record(record, METHODS).exact


async def test_replay_passes_over_failed_groups(tmp_path: Path) -> None:
    failed = {"schema_version": "ropd.judgement.v1", "status": "failed"}
    journal = Journal(tmp_path, 1 << 20)
    for record in (judged_record(), failed):
        await journal.append(record)
    await journal.aclose()
    assert [each.judgement_id for each in replay(tmp_path, METHODS)] == ["j"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(JournalError, match="no journal"):
        list(replay(empty, METHODS))
    with pytest.raises(JournalError, match="elsewhere"):
        list(replay(tmp_path / "elsewhere", METHODS))
