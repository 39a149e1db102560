"""Which groups train: verl's buffers with our policy, over a TransferQueue kept in a dictionary."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import transfer_queue as tq
from omegaconf import OmegaConf

from algo.errors import ConfigurationError
from ropd_verl.config import compose_config
from ropd_verl.replay_buffer import RolloutStalled, build_replay_buffer

Queue = dict[str, dict[str, Any]]


def prompt(status: str) -> dict[str, Any]:
    return {"is_prompt": True, "status": status, "global_steps": 1}


def rows(uid: str, count: int) -> Queue:
    return {f"{uid}_{i}_0": {"status": "success"} for i in range(count)}


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    """Stands in for TransferQueue's partition "train"."""
    items: Queue = {}

    def clear(keys: list[str], partition_id: str) -> None:
        for key in keys:
            items.pop(key, None)

    monkeypatch.setattr(tq, "kv_list", lambda: {"train": items})
    monkeypatch.setattr(tq, "kv_clear", clear)
    return items


def buffer(mode: str, refill: Any, **changes: Any) -> Any:
    shipped = compose_config("ropd_cpu", []).trainer.v1.sampler.sampler_kwargs
    kwargs = OmegaConf.to_container(shipped, resolve=True)
    return build_replay_buffer(
        trainer_mode=mode,
        trainer_config={},
        max_off_policy_threshold=8,
        max_off_policy_strategy="drop",
        sampler_kwargs=OmegaConf.merge(kwargs, {"poll_interval_s": 0.001, **changes}),
        refill_fn=refill,
    )


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_a_failed_group_is_replaced_even_when_some_of_it_was_stored(
    queue: Queue, mode: str
) -> None:
    queue.update({"a": prompt("finished"), **rows("a", 2), "b": prompt("failure"), **rows("b", 1)})
    asked: list[int] = []

    def refill(count: int) -> None:
        asked.append(count)
        queue.update({"c": prompt("finished"), **rows("c", 2)})

    batch, metrics = buffer(mode, refill).sample(1, "train", 2)
    assert asked == [1]
    assert sorted(key.split("_")[0] for key in batch.keys) == ["a", "a", "c", "c"]
    assert metrics["training/rollout_failure/evicted_samples"] == 1
    assert not any(key.startswith("b") for key in queue)


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_only_groups_without_scores_count_as_failed(queue: Queue, mode: str) -> None:
    made = buffer(mode, len)
    stale, tied, failed = {"a"}, {"b", "c"}, {"d"}
    made._evict_terminal_groups(1, "train", (stale, tied, failed, Counter({1.0: 2})))
    assert made.failed_groups == 1


def test_what_the_refill_raises_ends_the_wait(queue: Queue) -> None:
    queue["a"] = prompt("failure")

    def refill(count: int) -> None:
        raise ConnectionError("judge gone")

    with pytest.raises(ConnectionError, match="judge gone"):
        buffer("sync", refill).sample(1, "train", 1)


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_a_run_in_which_nothing_moves_ends(queue: Queue, mode: str) -> None:
    queue["a"] = prompt("running")
    with pytest.raises(RolloutStalled, match=r"1 groups run; raise .*stall_limit_s"):
        buffer(mode, None if mode != "sync" else len, stall_limit_s=0.02).sample(1, "train", 1)


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_a_wait_tells_what_was_in_flight_and_for_how_long(
    queue: Queue, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.update({"a": prompt("pending"), "b": prompt("running")})
    clock = iter(range(100))
    monkeypatch.setattr("ropd_verl.replay_buffer.time.time", lambda: next(clock))

    def finish(_: float) -> None:
        running = next(key for key in "ba" if queue[key]["status"] != "finished")
        queue.update({running: prompt("finished"), **rows(running, 1)})

    monkeypatch.setattr("time.sleep", finish)
    made = buffer(mode, len)
    made.sample(1, "train", 2)
    waits = made.take_waits()
    assert [wait.in_flight for wait in waits] == [{"a", "b"}, {"a"}]
    assert all(wait.start < wait.end for wait in waits)
    assert waits[0].end <= waits[1].start
    assert made.take_waits() == []


def test_validation_takes_what_there_is(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    done = {"a": prompt("finished"), **rows("a", 1), "b": prompt("failure")}
    monkeypatch.setattr(tq, "kv_list", lambda: {"val": done})
    batch, metrics = buffer("sync", len).sample(1, "val", 2)
    assert batch.keys == ["a_0_0"]
    assert metrics == {}


def test_group_filtering_is_handed_on(queue: Queue) -> None:
    groups = {"enable": True, "metric": "reward", "max_inflight_gen_batches": 2}
    made = buffer("sync", len, filter_groups=groups)
    assert (made.filter_groups_metric, made.max_inflight_gen_batches) == ("reward", 2)
    assert buffer("sync", len).filter_groups_metric is None


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ConfigurationError, match="sampler_kwargs: patience"):
        buffer("sync", len, patience=3)
