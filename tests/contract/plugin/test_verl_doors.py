"""Every upstream symbol that this project touches, one test a door (see verl/UPSTREAM.md)."""

import inspect
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import verl
from omegaconf import OmegaConf
from verl.experimental.agent_loop import agent_loop as upstream_agent_loop
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.plugin.platform import platform_manager
from verl.plugin.platform.platform_manager import PlatformRegistry
from verl.trainer import main_ppo
from verl.trainer.ppo.reward import resolve_reward_manager_cls
from verl.trainer.ppo.v1 import agent_loop_tq, replay_buffer, trainer_base
from verl.utils import distributed
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path
from verl.utils.tracking import FileLogger
from verl.workers import engine_workers
from verl.workers.rollout.base import BaseRollout, get_rollout_class
from verl.workers.rollout.replica import get_rollout_replica_class

from ropd_verl import agent_loop, plugin, train
from ropd_verl.config import compose_config
from ropd_verl.cpu.platform import CpuPlatform
from ropd_verl.ray_actors import class_behind
from ropd_verl.replay_buffer import RopdReplayBuffer, RopdReplayBufferAsync, build_replay_buffer
from ropd_verl.reward_manager import RopdRewardManager
from ropd_verl.transformers_rollout import TransformersReplica, TransformersServerAdapter
from tests.builders.patience import patience


def run_python(code: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=patience(55),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_pin_is_what_is_installed():
    assert verl.__version__ == "0.9.1"


def test_this_repository_does_not_hide_the_installed_verl():
    root = Path(__file__).parents[3]
    where = run_python(
        "import sys; sys.path.insert(0, '.'); import verl; print(verl.__file__)", PWD=str(root)
    )
    assert "site-packages" in where
    assert not (root / "verl" / "__init__.py").exists()


def test_plugin_is_loaded_by_importing_verl():
    assert run_python("import verl, sys; print('ropd_verl.plugin' in sys.modules)") == "True"


def test_a_plugin_left_out_is_noticed():
    code = (
        "import verl; from algo.errors import ConfigurationError\n"
        "import ropd_verl.plugin as p\n"
        "from verl.plugin.platform.platform_manager import PlatformRegistry\n"
        "PlatformRegistry._platforms.pop('cpu')\n"
        "try: p.check_registered()\n"
        "except ConfigurationError as e: print(e)"
    )
    assert "pip install -e ." in run_python(code)


def test_cpu_platform_is_chosen_by_name_only(monkeypatch):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    assert platform_manager._detect_platform_name() != "cpu"
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    assert platform_manager._detect_platform_name() == "cpu"
    assert PlatformRegistry.get("cpu") is CpuPlatform


def test_cpu_platform_implements_the_interface():
    platform = CpuPlatform()
    module = platform.device_module
    assert (platform.device_name, platform.communication_backend_name()) == ("cpu", "gloo")
    for name in ("empty_cache", "max_memory_allocated", "mem_get_info", "synchronize"):
        getattr(module, name)()
    with pytest.raises(AttributeError):
        _ = module.no_such_function


def test_transformers_rollout_is_registered():
    assert get_rollout_replica_class("transformers") is TransformersReplica
    assert get_rollout_class("transformers") is TransformersServerAdapter
    assert issubclass(TransformersServerAdapter, BaseRollout)
    assert parameters(TransformersServerAdapter.update_weights)[1:3] == ["weights", "wire_format"]


def test_training_worker_calls_the_patched_process_group():
    assert vars(engine_workers)["initialize_global_process_group_ray"].__dict__["ropd"]
    assert parameters(distributed.initialize_global_process_group_ray) == [
        "timeout_second",
        "backend",
    ]
    source = inspect.getsource(engine_workers.TrainingWorker.__init__)
    assert source.index("initialize_global_process_group_ray(") < source.index(
        "EngineRegistry.new("
    )


def test_process_group_starts_on_a_cpu(tmp_path):
    code = (
        "import verl, torch.distributed as d\n"
        "from verl.utils.distributed import initialize_global_process_group_ray as start\n"
        "start(); print(d.get_backend()); d.destroy_process_group()"
    )
    backend = run_python(
        code,
        VERL_PLATFORM="cpu",
        RANK="0",
        WORLD_SIZE="1",
        DIST_INIT_METHOD=f"file://{tmp_path}/store",
    )
    assert backend.splitlines()[-1] == "gloo"


def test_fsdp_engines_serve_the_cpu():
    code = (
        "import verl; from ropd_verl import plugin; plugin._register_fsdp_engines()\n"
        "from verl.workers.engine import EngineRegistry\n"
        "for kind in ('language_model', 'value_model'):\n"
        "    print(EngineRegistry.get_engine_cls(kind, 'fsdp2').__name__)"
    )
    out = run_python(code, VERL_PLATFORM="cpu").splitlines()[-2:]
    assert out == ["FSDPEngineWithLMHead", "FSDPEngineWithValueHead"]


def test_a_reference_policy_is_offloaded_without_pinned_memory():
    code = (
        "import verl, inspect; from ropd_verl import plugin; plugin._register_fsdp_engines()\n"
        "from verl.workers.engine.fsdp import transformer_impl as fsdp\n"
        "source = inspect.getsource(fsdp.FSDPEngine._build_fsdp_module)\n"
        "print('offload_policy = CPUOffloadPolicy(pin_memory=True)' in source)\n"
        "print(fsdp.CPUOffloadPolicy(pin_memory=True).pin_memory)"
    )
    assert run_python(code, VERL_PLATFORM="cpu").splitlines()[-2:] == ["True", "False"]


def test_agent_loop_worker_keeps_its_seams():
    worker = agent_loop._Worker
    # Ray appends a parameter of its own.
    own = ["self", "prompt", "sampling_params", "trajectory", "trace"]
    assert parameters(worker._run_prompt)[:5] == own
    assert parameters(worker._compute_score)[:3] == ["self", "outputs", "kwargs"]
    assert {"sampling_params", "trajectory"} < set(parameters(worker._run_agent_loop))
    assert "session_id=i" in inspect.getsource(worker._run_prompt)
    assert "_compute_score(outputs, kwargs=kwargs)" in inspect.getsource(
        worker._agent_loop_postprocess
    )
    fields = upstream_agent_loop.AgentLoopOutput.model_fields
    assert {"response_ids", "reward_score", "extra_fields", "metrics"} <= fields.keys()


def test_manager_starts_our_worker():
    manager = agent_loop.GroupScoringManager(
        config=OmegaConf.create({"actor_rollout_ref": {"rollout": {}, "model": {}}}),
        llm_client=None,
    )
    worker = class_behind(manager.agent_loop_workers_class)
    assert issubclass(worker, agent_loop.GroupScoringWorker)


def test_ray_shows_the_class_behind_an_actor():
    assert agent_loop._Worker.__name__ == "AgentLoopWorkerTQ"
    assert hasattr(class_behind(main_ppo.TaskRunnerV1), "run")


def test_reward_worker_hands_its_data_to_the_manager():
    source = inspect.getsource(RewardLoopWorker.compute_score)
    assert "self.reward_manager.run_single(data)" in source


def test_reward_manager_is_found_by_name():
    assert resolve_reward_manager_cls(compose_config("ropd_cpu", [])) is RopdRewardManager


def test_failed_groups_are_logged_where_we_filter(caplog):
    assert agent_loop_tq.logger.name == "verl.trainer.ppo.v1.agent_loop_tq"
    agent_loop._quiet_group_failures()
    agent_loop._quiet_group_failures()
    assert agent_loop_tq.logger.filters.count(agent_loop._is_news) == 1
    with caplog.at_level(logging.ERROR, logger=agent_loop_tq.logger.name):
        for error in (agent_loop.GroupFailed("known"), ValueError("news")):
            agent_loop_tq.logger.error("x", exc_info=(type(error), error, None))
    assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [ValueError]
    agent_loop_tq.logger.removeFilter(agent_loop._is_news)


def test_replay_buffer_keeps_its_seams():
    for ours, theirs in (
        (RopdReplayBuffer, replay_buffer.ReplayBuffer),
        (RopdReplayBufferAsync, replay_buffer.ReplayBufferAsync),
    ):
        assert issubclass(ours, theirs)
        assert "_wait_for_next_poll(partition_id" in inspect.getsource(
            inspect.unwrap(theirs.sample)
        ) + inspect.getsource(getattr(theirs, "wait_for_sampleable", theirs.sample))
        assert parameters(theirs._sync_metadata_from_transfer_queue) == ["self"]
        assert parameters(theirs._evict_terminal_groups) == [
            "self",
            "global_steps",
            "partition_id",
            "eviction_reasons",
        ]
    config = compose_config("ropd_cpu", [])
    kwargs = config.trainer.v1.sampler.sampler_kwargs
    for mode, expected in (
        ("sync", RopdReplayBuffer),
        ("colocate_async", RopdReplayBufferAsync),
        ("separate_async", RopdReplayBufferAsync),
    ):
        buffer = build_replay_buffer(
            trainer_mode=mode,
            trainer_config={},
            max_off_policy_threshold=8,
            max_off_policy_strategy="drop",
            sampler_kwargs=kwargs,
            refill_fn=lambda n: n,
        )
        assert type(buffer) is expected
        assert buffer.poll_interval == 0.05


def test_entry_points_of_the_trainer():
    assert parameters(main_ppo.run_ppo) == ["config", "task_runner_class"]
    source = inspect.getsource(inspect.unwrap(main_ppo.main))
    for call in ("auto_set_device(config)", "validate_config(", "run_ppo(config"):
        assert call in source
    assert callable(train.main)


def test_every_mode_is_registered():
    modes = {"sync", "colocate_async", "separate_async"}
    assert modes <= trainer_base.TRAINER_REGISTRY.keys()


def test_trainer_keeps_its_seams(tmp_path):
    trainer = trainer_base.PPOTrainer
    assert parameters(trainer.step) == ["self", "metrics", "timing_raw"]
    assert parameters(trainer._add_prompts_to_generate) == ["self", "num_prompts"]
    assert parameters(trainer._save_checkpoint) == ["self"]
    assert find_latest_ckpt_path(str(tmp_path)) is None
    (tmp_path / "global_step_7").mkdir()
    assert find_latest_ckpt_path(str(tmp_path)) is None  # half-written
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("7")
    assert find_latest_ckpt_path(str(tmp_path)) == str(tmp_path / "global_step_7")
    assert parameters(inspect.unwrap(trainer._add_batch_to_generate)) == ["self"]
    assert "self._add_batch_to_generate()" in inspect.getsource(trainer.prepare_step)
    assert "self._restored_tq_prompt_count" in inspect.getsource(trainer._load_checkpoint)
    assert "self.local_trigger_step = trigger_idx" in inspect.getsource(trainer.step)
    assert "refill_fn=self._add_prompts_to_generate" in inspect.getsource(
        trainer._build_replay_buffer
    )
    assert "data.pt" in inspect.getsource(trainer._save_checkpoint)
    assert "self.replay_buffer = self._build_replay_buffer()" in inspect.getsource(trainer)
    assert "self.train_dataloader = StatefulDataLoader" in inspect.getsource(
        trainer._init_dataloader
    )


def test_metric_file_goes_where_we_say(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(path))
    logger = FileLogger("p", "e")
    logger.log({"a": 1.5}, step=3)
    logger.finish()
    assert json.loads(path.read_text()) == {"step": 3, "data": {"a": 1.5}}


def test_plugin_module_is_the_entry_point():
    from importlib.metadata import entry_points

    [entry] = entry_points(group="verl.plugins", name="ropd")
    assert entry.load() is plugin
