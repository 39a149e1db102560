"""What an agent loop's output is to the judge."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from algo.judge.group import Rollout
from ropd_verl.agent_loop import GroupScoringWorker

EOS = 3


def rollout_of(ids: list[int], *, thinking: bool = True) -> Rollout:
    worker: Any = SimpleNamespace(
        _eos=frozenset({EOS}),
        tokenizer=SimpleNamespace(
            decode=lambda ids, skip_special_tokens: "".join(str(i) for i in ids if i != EOS)
        ),
        config=SimpleNamespace(
            ropd=SimpleNamespace(rollouts=SimpleNamespace(thinking=thinking)),
        ),
    )
    output: Any = SimpleNamespace(response_ids=ids)
    return GroupScoringWorker._rollout(worker, output)


@pytest.mark.parametrize(
    ("ids", "finished"),
    [
        ([5, 6, EOS], True),
        ([5, 6, 7, 8], False),
        # Cut off by the model's positions, long before the limit on responses.
        ([5], False),
        # An end token in the middle is not where the model stopped.
        ([5, EOS, 6], False),
        ([], False),
    ],
)
def test_an_answer_is_finished_by_its_end_token_alone(ids: list[int], finished: bool) -> None:
    assert rollout_of(ids).finished is finished


@pytest.mark.parametrize("thinking", [True, False])
def test_whether_a_student_thinks_is_the_configurations(thinking: bool) -> None:
    assert rollout_of([5, EOS], thinking=thinking) == Rollout("5", True, thinking)
