"""The trainer's view of which groups are ready, without poll pauses and without endless waits.

verl's buffers poll every 2 s; these poll every 50 ms. In sync mode a group with a failed
member is evicted even when some siblings were stored already, so that no partial group trains.
A run in which nothing moves for `stall_limit_s` ends with an error instead of waiting for ever.
What was in flight during each wait is kept for `judge_time`.

Installed by ``trainer.v1.sampler.custom_sampler``; ``trainer.v1.sampler.sampler_kwargs`` are
the settings.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from algo.errors import ConfigurationError, RopdError
from algo.runs.judge_time import BatchWait


class RolloutStalled(RopdError):
    """No rollout or group changed its state for longer than allowed."""


class _BoundedWait:
    """Mixed into verl's buffers: the pause between two polls, bounded in total."""

    stall_limit_s: float
    poll_interval: float
    partitions: dict[str, dict]
    pending_keys: dict[str, set]
    running_keys: dict[str, set]
    finished_keys: dict[str, set]
    failure_keys: dict[str, set]
    _state: Any = None
    _stalled_s: float = 0.0
    failed_groups: int = 0
    """Training groups evicted so far because they have no scores; not those that a filter of
    rewards or their age took."""
    _paused: tuple[float, frozenset[str]] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waits: list[BatchWait] = []

    def take_waits(self) -> list[BatchWait]:
        """What the waits for training batches saw since the last call."""
        taken, self._waits = self._waits, []
        return taken

    def _sync_metadata_from_transfer_queue(self) -> None:
        super()._sync_metadata_from_transfer_queue()  # pyright: ignore
        if self._paused is not None:
            since, in_flight = self._paused
            self._waits.append(BatchWait(since, time.time(), in_flight))
            self._paused = None

    def _evict_terminal_groups(
        self, global_steps: int, partition_id: str, eviction_reasons: tuple
    ) -> tuple[set[str], int, int, dict]:
        self.failed_groups += len(eviction_reasons[2])
        return super()._evict_terminal_groups(  # pyright: ignore
            global_steps, partition_id, eviction_reasons
        )

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        state = [
            {partition: frozenset(keys) for partition, keys in group.items()}
            for group in (
                self.pending_keys,
                self.running_keys,
                self.finished_keys,
                self.failure_keys,
                self.partitions,
            )
        ]
        # Only time spent waiting counts: between two samples the trainer is busy elsewhere.
        self._stalled_s = self._stalled_s + self.poll_interval if state == self._state else 0.0
        self._state = state
        if self._stalled_s > self.stall_limit_s:
            raise RolloutStalled(
                f"no rollout and no judgement ended for {self.stall_limit_s:.0f} s while "
                f"{len(self.running_keys[partition_id])} groups run; raise "
                "trainer.v1.sampler.sampler_kwargs.stall_limit_s if single answers take longer"
            )
        if partition_id == "train":
            unfinished = self.pending_keys[partition_id] | self.running_keys[partition_id]
            self._paused = (time.time(), frozenset(unfinished))
        return super()._wait_for_next_poll(partition_id, last_debug_time)  # pyright: ignore


class RopdReplayBuffer(_BoundedWait, ReplayBuffer):
    """Synchronous sampling; every failed group is evicted and replaced by a fresh prompt."""

    def _terminal_eviction_reasons(
        self, global_steps: int, partition_id: str
    ) -> tuple[set[str], set[str], set[str], Counter]:
        stale, filtered, failed, counts = super()._terminal_eviction_reasons(
            global_steps, partition_id
        )
        if partition_id != "val":
            failed = set(self.failure_keys[partition_id])
        return stale, filtered, failed, counts


class RopdReplayBufferAsync(_BoundedWait, ReplayBufferAsync):
    """Sampling for the asynchronous trainers, which evict and replace failed groups already."""


def build_replay_buffer(*, trainer_mode: str, sampler_kwargs: Any, **common: Any) -> ReplayBuffer:
    """The buffer for a trainer mode; stands where verl expects a custom sampler class.

    ``sampler_kwargs``: poll_interval_s, stall_limit_s, train_batch_size, and filter_groups
    (verl's ``algorithm.filter_groups``, which verl does not hand to custom samplers).
    """
    settings = dict(sampler_kwargs)
    groups = settings.pop("filter_groups")
    stall_limit_s = float(settings.pop("stall_limit_s"))
    poll_interval = float(settings.pop("poll_interval_s"))
    train_batch_size = int(settings.pop("train_batch_size"))
    if settings:
        raise ConfigurationError(
            f"unknown keys in trainer.v1.sampler.sampler_kwargs: {', '.join(settings)}"
        )
    filtering: dict[str, Any] = {}
    if groups["enable"]:
        filtering["filter_groups_metric"] = str(groups["metric"])
        filtering["max_inflight_gen_batches"] = int(groups["max_inflight_gen_batches"])
    sync = trainer_mode == "sync"
    buffer = (RopdReplayBuffer if sync else RopdReplayBufferAsync)(
        trainer_mode=trainer_mode,
        sampler_kwargs=sampler_kwargs,
        poll_interval=poll_interval,
        train_batch_size=train_batch_size,
        gen_batch_size=1,
        sync_refill_failed_groups=sync,
        **filtering,
        **common,
    )
    buffer.stall_limit_s = stall_limit_s
    return buffer
