"""The real trainer: verl, Ray, FSDP2, the HTTP judge and the teacher index, for a few steps."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from algo.judge.journal import read_records
from algo.judge.replay import replay
from algo.methods.registry import METHODS
from ropd_verl.reward_manager import on_grid
from tests.e2e.conftest import Start, Started

# A fifth of all calls fails and is retried; one group meets a refusal, which is not.
IMPAIRED = (
    "example.judge.faults=[{kind:refusal,role:rubricator,schedule:[5]},"
    "{kind:http_500,fraction:0.2}]",
    "ropd.judge.limits.retries.refusal=0",
    "ropd.judge.limits.backoff_s=0.05",
)


# Ways to train that bear on each other in nothing share a run with a test of something else.
ACCUMULATED = (
    "actor_rollout_ref.actor.use_dynamic_bsz=False",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
)
DYNAMIC = ("actor_rollout_ref.actor.ppo_max_token_len_per_gpu=256",)
LORA = ("adapter=lora",)


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    file = run / f"checkpoints/global_step_{step}/actor/model_world_size_1_rank_0.pt"
    state: dict[str, Any] = torch.load(file, weights_only=False)
    return {k: v.to_local() if hasattr(v, "to_local") else v for k, v in state.items()}


def trained_rows(folder: Path, step: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{step}.jsonl").read_text().splitlines()]


def assert_clean_end(started: Started) -> None:
    assert started.exit_code() == 0, started.output.read_text()
    assert started.left_behind() == []
    assert "Traceback" not in started.log
    assert "Traceback" not in started.output.read_text()
    assert started.lines[-1] == str(started.run / "summary.json")


def assert_trained(started: Started, steps: int) -> None:
    """It ran to its end, trained in every sense, and its journal replays."""
    assert_clean_end(started)
    assert started.summary["steps"] == steps
    if (journal := started.summary["journal"]) is not None:
        assert all(r.exact for r in replay(Path(journal), METHODS))
    assert any(data["actor/grad_norm"] > 0 for step, data in started.steps.items() if step)


def assert_interrupted(started: Started, sent: signal.Signals) -> None:
    started.process.send_signal(sent)
    assert started.exit_code(60) == 130
    assert started.left_behind() == []
    assert started.lines[-1].startswith("interrupted; the same command resumes")
    assert "Traceback" not in started.output.read_text()


def test_three_steps_with_a_failing_judge_and_accumulated_gradients(
    start: Start, tmp_path: Path, example_dir: Path
) -> None:
    rollouts = tmp_path / "rollouts"
    started = start(
        "trainer.total_training_steps=3",
        "trainer.val_before_train=True",
        f"+trainer.rollout_data_dir={rollouts}",
        *IMPAIRED,
        *ACCUMULATED,
    )
    assert_trained(started, steps=3)
    records = list(read_records(started.run / "journal"))
    judged = {r.uid: r for r in replay(started.run / "journal", METHODS)}
    failed = [r for r in records if r["status"] == "failed"]

    # The planted failure has no score, trained nowhere, and was replaced and counted.
    assert [r["failure"]["kind"] for r in failed] == ["refusal"]
    assert "scores" not in failed[0]
    rows = {step: trained_rows(rollouts, step) for step in (1, 2, 3)}
    assert all(len(batch) == 4 * 4 for batch in rows.values())
    trained_uids = {row["uid"].split("_")[0] for batch in rows.values() for row in batch}
    assert failed[0]["uid"] not in trained_uids
    assert trained_uids == judged.keys()
    evicted = "training/rollout_failure/evicted_samples"
    assert sum(data.get(evicted, 0) for data in started.steps.values()) == 1
    assert started.summary["groups_failed"] == 1
    assert started.summary["groups_judged"] == len(judged) == 12
    assert sum(d.get("ropd/judge/retries/transport", 0) for d in started.steps.values()) > 0

    # Every reward that trained is the one the journal's booleans give.
    for batch in rows.values():
        for row in batch:
            uid, session, _ = row["uid"].split("_")
            assert judged[uid].exact
            assert row["score"] == on_grid(judged[uid].scores[int(session)])
    assert len({row["score"] for batch in rows.values() for row in batch}) > 2

    # Validation was graded and never journaled; the weights moved at every step.
    assert started.summary["accuracy_before"] is not None
    assert all(r["step"] >= 1 for r in records)
    initial = load_file(example_dir / "student" / "model.safetensors")
    before = {k: v for k, v in weights(started.run, 2).items() if k in initial}
    after = weights(started.run, 3)
    assert any(not torch.equal(v, initial[k]) for k, v in before.items())
    assert any(not torch.equal(v, after[k]) for k, v in before.items())
    assert failed[0]["uid"] in (started.run / "report.html").read_text()


def test_a_killed_run_of_lora_in_dynamic_micro_batches_resumes_from_its_checkpoint(
    start: Start,
) -> None:
    overrides = ("trainer.total_training_steps=4", *LORA, *DYNAMIC)
    first = start(*overrides)
    checkpoint = "checkpoints/latest_checkpointed_iteration.txt"
    first.until(lambda: list(first.root.glob(f"001/{checkpoint}")))
    first.kill()
    resumed_at = int((first.run / checkpoint).read_text())

    second = start(*overrides)
    assert_trained(second, steps=4)
    assert second.run.name == "001"
    assert f"continues at step {resumed_at}" in second.output.read_text()
    records = list(read_records(second.run / "journal"))
    assert len({r["judgement_id"] for r in records}) == len(records)
    assert len({r["uid"] for r in records}) == len(records)
    assert {r["step"] for r in records} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("mode", "sent"), [("sync", signal.SIGINT), ("colocate_async", signal.SIGTERM)]
)
def test_a_dead_judge_stops_the_run_and_the_run_resumes_until_a_signal_ends_it(
    start: Start, mode: str, sent: signal.Signals
) -> None:
    overrides = (
        "trainer.total_training_steps=40",
        "ropd.judge.limits.outage_s=5",
        f"mode={mode}",
        # Nothing but the outage saves.
        "trainer.save_freq=1000",
    )
    first = start(*overrides)
    first.until(lambda: 2 in first.steps)
    [judge] = [p for p in first.alive() if "examples.arithmetic.judge" in " ".join(p.cmdline())]
    judge.kill()
    assert first.exit_code(180) == 1
    assert first.left_behind() == []
    last = first.lines[-1]
    assert "http://127.0.0.1:" in last
    assert "resume with: bash training/train.sh" in last
    assert "judge outage" in last
    marker = first.run / "checkpoints/latest_checkpointed_iteration.txt"
    stopped_at = int(marker.read_text())
    assert stopped_at == max(first.steps)
    assert all("scores" not in r for r in read_records(first.run / "journal") if "failure" in r)

    second = start(*overrides)
    second.until(lambda: max(second.steps) > stopped_at)
    assert second.run.name == "001"
    assert_interrupted(second, sent)
    assert all(r.exact for r in replay(second.run / "journal", METHODS))


WAYS = {
    "two ranks, colocate_async": (
        "trainer.n_gpus_per_node=2",
        "trainer.v1.trainer_mode=colocate_async",
    ),
    "colocate_async with importance weights": ("mode=colocate_async",),
    "T-Judge with references": ("method=tjudge", "ropd.method.reference=teacher"),
    "OVD": ("method=ovd",),
    "RLVR": ("method=rlvr",),
}


@pytest.mark.parametrize("overrides", WAYS.values(), ids=WAYS)
def test_other_ways_to_train(start: Start, overrides: tuple[str, ...]) -> None:
    assert_trained(start("trainer.total_training_steps=2", *overrides), steps=2)
