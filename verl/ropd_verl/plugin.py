"""What verl loads in every process through the ``verl.plugins`` entry point.

Importing this module registers the CPU platform and the transformers rollout, and patches the
two places in verl that a CPU cannot pass. verl logs a plugin's import failure at debug level
only, so `ropd_verl.train` calls `check_registered` before it starts anything.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import verl.utils.distributed
from verl.plugin.platform.platform_manager import PlatformRegistry
from verl.workers.rollout.base import _ROLLOUT_REGISTRY
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry

from algo.errors import ConfigurationError
from ropd_verl.cpu.platform import PLATFORM, CpuPlatform

ROLLOUT = "transformers"


def _load_replica() -> type[RolloutReplica]:
    from ropd_verl.transformers_rollout import TransformersReplica

    return TransformersReplica


def _on_cpu(initialize: Callable[..., None]) -> Callable[..., None]:
    """Let a training worker start on a CPU.

    verl asks torch for the backend "cpu:gloo,<device>:<backend>", which names the device "cpu"
    twice when that is the device, and torch refuses it. The worker calls this function right
    before it looks up its FSDP engine, so this is also where that engine is registered for
    device "cpu" (importing it in every process would cost each some seconds).
    """

    @functools.wraps(initialize)
    def wrapper(timeout_second: int | None = None, backend: str | None = None) -> None:
        if os.environ.get("VERL_PLATFORM") == PLATFORM:
            backend = backend or "gloo"
            _register_fsdp_engines()
        initialize(timeout_second=timeout_second, backend=backend)

    wrapper.__dict__["ropd"] = True
    return wrapper


@functools.cache
def _register_fsdp_engines() -> None:
    from verl.workers.engine import EngineRegistry
    from verl.workers.engine.fsdp import transformer_impl as fsdp

    for model_type, engine in (
        ("language_model", fsdp.FSDPEngineWithLMHead),
        ("value_model", fsdp.FSDPEngineWithValueHead),
    ):
        EngineRegistry.register(model_type=model_type, backend=["fsdp", "fsdp2"], device="cpu")(
            engine
        )
    module: Any = fsdp
    module.CPUOffloadPolicy = functools.partial(_unpinned, module.CPUOffloadPolicy)


def _unpinned(policy: Callable[..., Any], pin_memory: bool = True) -> Any:
    """The offload policy of a reference policy, which verl always makes with pinned memory: torch
    pins none without an accelerator."""
    return policy(pin_memory=False)


def check_registered() -> None:
    """Make sure that this process's verl knows the plugin.

    Raises:
        ConfigurationError: when it does not, with the way to repair it.
    """
    patched: Any = verl.utils.distributed.initialize_global_process_group_ray
    if (
        PlatformRegistry.get(PLATFORM) is not CpuPlatform
        or (ROLLOUT, "async") not in _ROLLOUT_REGISTRY
        or not patched.__dict__.get("ropd")
    ):
        raise ConfigurationError(
            "verl did not load the plugin `ropd` (entry point group verl.plugins): install this "
            "repository with `pip install -e .` and unset VERL_USE_EXTERNAL_PLUGINS, or include "
            "`ropd` in it"
        )


PlatformRegistry.register(PLATFORM)(CpuPlatform)
RolloutReplicaRegistry.register(ROLLOUT, _load_replica)
_ROLLOUT_REGISTRY[(ROLLOUT, "async")] = "ropd_verl.transformers_rollout.TransformersServerAdapter"
verl.utils.distributed.initialize_global_process_group_ray = _on_cpu(
    verl.utils.distributed.initialize_global_process_group_ray
)
