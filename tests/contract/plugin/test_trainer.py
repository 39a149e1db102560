"""What our trainers add to verl's: on a stand-in for verl's trainer, with reward workers that are
asked through Ray's errors. The real ones run in `tests/e2e`."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError

from algo.errors import FailureKind, JudgeOutage, RopdError
from algo.runs.judge_time import BUSY, WAITED, BatchWait, JudgingSpan
from ropd_verl import trainer
from ropd_verl.trainer import STARTED_AT_VARIABLE, GroupsKeepFailing, JudgingEnded

OUTAGE = JudgeOutage("verifier", FailureKind.TRANSPORT, 600.0, "gone")
BATCH = 4


class VerlTrainer:
    """What of verl's `PPOTrainer` the mixin touches."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.config = OmegaConf.create(
            {
                "data": {"train_batch_size": BATCH},
                "trainer": {
                    "default_local_dir": str(folder),
                    "v1": {mode: {"num_warmup_batches": 1.5}},
                },
            }
        )
        self.trainer_mode = mode
        self.global_steps = 8
        self.local_trigger_step = 3  # the last one of the step before
        self._restored_tq_prompt_count = 0
        self.train_dataloader = SimpleNamespace(state_dict=lambda: {"at": 7})
        self.replay_buffer = SimpleNamespace(failed_groups=100, take_waits=list)
        self.reward_loop_manager = SimpleNamespace(reward_loop_workers=[Worker()])
        self.raised: BaseException | None = None
        self.raised_in_update = 0
        self.no_disk = False
        self.added: list[int | str] = []

    def step(self, metrics: dict, timing_raw: dict) -> str:
        self.local_trigger_step = self.raised_in_update or self.local_trigger_step
        if self.raised is not None:
            raise self.raised
        return "batch"

    def _save_checkpoint(self) -> None:
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        folder.mkdir(parents=True, exist_ok=True)
        if self.no_disk:
            raise OSError(28, "No space left on device")
        torch.save({"at": "the interrupted step's end"}, folder / "data.pt")
        marker = folder.parent / "latest_checkpointed_iteration.txt"
        marker.write_text(str(self.global_steps))

    def _add_batch_to_generate(self) -> None:
        self.added.append("batch")

    def _add_prompts_to_generate(self, num_prompts: int) -> int:
        self.added.append(num_prompts)
        return num_prompts


class Worker:
    """A reward worker's handle; `ray.get` below resolves what its calls return."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"metrics": {"ropd/groups_judged": 4.0}, "judging_spans": {}}
        self.__ray_call__ = SimpleNamespace(remote=lambda _, method: self.answers.get(method))


@pytest.fixture(autouse=True)
def ray_get(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(answer: Any, timeout: float) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(trainer.ray, "get", get)
    monkeypatch.setenv(STARTED_AT_VARIABLE, "0")


def made(folder: Path, mode: str = "sync") -> Any:
    stand_in: Any = VerlTrainer
    return trainer._with_judge(stand_in)(folder, mode)  # pyright: ignore[reportCallIssue]


def checkpoint(folder: Path, step: int) -> Path:
    return folder / f"global_step_{step}"


def test_a_complete_step_reports_the_judge(tmp_path: Path) -> None:
    one, metrics = made(tmp_path), {}
    one.reward_loop_manager.reward_loop_workers[0].answers["judging_spans"] = {
        "a": JudgingSpan(0.0, 5.0)
    }
    one.replay_buffer.take_waits = lambda: [BatchWait(1.0, 3.5, frozenset("a"))]
    assert one.step(metrics, {}) == "batch"
    assert metrics["ropd/groups_judged"] == 4.0
    assert metrics[WAITED] == 2.5
    assert metrics[BUSY] == 0.0  # it left before the step began
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "position"),
    [("sync", {"at": 7}), ("colocate_async", {"at": "the interrupted step's end"})],
)
def test_an_outage_saves_the_last_complete_step(
    tmp_path: Path, mode: str, position: dict[str, Any]
) -> None:
    one = made(tmp_path, mode)
    one.raised = OUTAGE
    with pytest.raises(JudgeOutage):
        one.step({}, {})
    assert torch.load(checkpoint(tmp_path, 7) / "data.pt") == position


def test_a_step_that_updated_the_weights_already_is_not_saved_as_the_one_before(
    tmp_path: Path,
) -> None:
    one = made(tmp_path, "separate_async")
    one.raised, one.raised_in_update = OUTAGE, 2
    with pytest.raises(JudgeOutage):
        one.step({}, {})
    assert list(tmp_path.iterdir()) == []


def test_an_outage_in_the_first_step_has_nothing_to_save(tmp_path: Path) -> None:
    one = made(tmp_path)
    one.raised, one.global_steps = OUTAGE, 1
    with pytest.raises(JudgeOutage):
        one.step({}, {})
    assert list(tmp_path.iterdir()) == []


def test_what_a_regular_checkpoint_holds_is_not_saved_again(tmp_path: Path) -> None:
    one = made(tmp_path)
    one.global_steps = 7
    one._save_checkpoint()
    one.raised, one.global_steps = OUTAGE, 8
    with pytest.raises(JudgeOutage):
        one.step({}, {})
    assert torch.load(checkpoint(tmp_path, 7) / "data.pt") != {"at": 7}


def test_a_full_disk_does_not_hide_the_outage_and_does_not_block_the_next_save(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = made(tmp_path)
    one.raised = ending = JudgeOutage("verifier", FailureKind.TRANSPORT, 600.0, "gone")
    one.no_disk = True
    with pytest.raises(JudgeOutage) as raised:
        one.step({}, {})
    assert raised.value is ending
    assert ending.__notes__ == ["no checkpoint of step 7 could be written, see the log"]
    assert "No space left on device" in caplog.text

    # verl left a folder without an entry in its tracker: that is no checkpoint.
    assert checkpoint(tmp_path, 7).is_dir()
    again = made(tmp_path)
    again.raised = OUTAGE
    with pytest.raises(JudgeOutage):
        again.step({}, {})
    assert torch.load(checkpoint(tmp_path, 7) / "data.pt") == {"at": 7}


def from_worker(cause: Exception) -> RayTaskError:
    return RayTaskError("compute", "trace", cause).as_instanceof_cause()


LOST = [
    ActorDiedError(),
    GetTimeoutError("60 s"),
    from_worker(OSError(28, "No space left on device")),
    from_worker(KeyError("a mistake")),
]


@pytest.mark.parametrize("error", LOST, ids=lambda e: type(e).__name__)
def test_a_reward_worker_that_cannot_go_on_ends_the_run_as_an_outage_does(
    tmp_path: Path, error: Exception
) -> None:
    one = made(tmp_path)
    one.reward_loop_manager.reward_loop_workers[0].answers["raise_if_ended"] = error
    with pytest.raises(JudgingEnded, match="the reward worker"):
        one._add_prompts_to_generate(1)
    assert issubclass(JudgingEnded, RopdError)  # so that `step` saves
    assert one.added == []


def test_the_projects_own_errors_come_through_as_they_are(tmp_path: Path) -> None:
    one = made(tmp_path)
    one.reward_loop_manager.reward_loop_workers[0].answers["raise_if_ended"] = from_worker(OUTAGE)
    with pytest.raises(JudgeOutage, match="gone"):
        one._add_prompts_to_generate(1)


@pytest.mark.parametrize("error", LOST, ids=lambda e: type(e).__name__)
def test_a_complete_step_stays_complete_when_its_figures_cannot_be_had(
    tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    one, metrics = made(tmp_path), {}
    one.reward_loop_manager.reward_loop_workers[0].answers["metrics"] = error
    with caplog.at_level(logging.WARNING):
        assert one.step(metrics, {}) == "batch"
    assert "step 8 has no figures of the judge" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_only_failed_groups_count_towards_giving_up(tmp_path: Path) -> None:
    one = made(tmp_path)
    one.step({}, {})
    for _ in range(50):  # a filter of rewards may take any number
        one._add_prompts_to_generate(2)
    one.replay_buffer.failed_groups += 4 * BATCH
    one._add_prompts_to_generate(1)
    one.replay_buffer.failed_groups += 1
    with pytest.raises(GroupsKeepFailing, match="17 groups failed in one step of 4"):
        one._add_prompts_to_generate(1)
    one.step({}, {})  # each step counts anew
    one._add_prompts_to_generate(1)


@pytest.mark.parametrize(
    ("mode", "restored", "added"),
    [
        ("sync", 0, ["batch"]),
        ("colocate_async", 0, ["batch"]),
        ("colocate_async", 6, ["batch"]),  # a regular checkpoint: the window of 1.5 batches
        ("colocate_async", 10, []),  # an outage: and the interrupted step's batch
        ("colocate_async", 7, [3]),  # of which three groups failed with it
    ],
)
def test_the_window_of_an_asynchronous_mode_does_not_grow_by_an_outage(
    tmp_path: Path, mode: str, restored: int, added: list[int | str]
) -> None:
    one = made(tmp_path, mode)
    one.step({}, {})
    one._restored_tq_prompt_count = restored
    one._add_batch_to_generate()
    assert one.added == added
    one._add_batch_to_generate()  # the next step is like any other
    assert one.added == [*added, "batch"]
