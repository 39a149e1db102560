"""Which Ray a run trains on: one of its own, or a cluster that is running already.

Ray refuses `num_cpus` and `num_gpus` where it joins a cluster, and joins one that it finds on this
machine without being asked. So a run joins where `RAY_ADDRESS` or `ray_kwargs.ray_init.address`
names a cluster, and the cluster's resources count; a run that says how large its Ray is (as
`hardware=cpu` does) starts one of its own otherwise. Any other is left to Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, open_dict

from algo.errors import ConfigurationError, RopdError

OWN = "local"
"""Ray's word for a new cluster, whatever else runs on this machine."""
_SIZES = ("num_cpus", "num_gpus")


def address(config: DictConfig, environ: Mapping[str, str]) -> str | None:
    """The cluster that the run joins by name; None where it names none."""
    ray_init = config.ray_kwargs.get("ray_init") or {}
    named = ray_init.get("address") or environ.get("RAY_ADDRESS")
    return None if not named or named == OWN else str(named)


def settle(config: DictConfig, environ: Mapping[str, str]) -> None:
    """Make `ray_kwargs.ray_init` what `ray.init` takes: sizes or a cluster, never both."""
    ray_init = config.ray_kwargs.ray_init
    with open_dict(ray_init):
        if address(config, environ) is not None:
            for size in _SIZES:
                ray_init.pop(size, None)
        elif any(ray_init.get(size) is not None for size in _SIZES):
            ray_init.address = OWN


def ranks(config: DictConfig) -> int:
    """What verl asks Ray for as GPUs: one each for training and, where apart, generating."""
    count = config.trainer.n_gpus_per_node * config.trainer.nnodes
    if config.trainer.v1.trainer_mode == "separate_async":
        rollout = config.actor_rollout_ref.rollout
        count += rollout.nnodes * rollout.n_gpus_per_node
    return count


def require(resources: Mapping[str, Any], config: DictConfig, cpus: int) -> None:
    """Raise `ConfigurationError` where a cluster lacks what the actors ask for: they would wait for
    it without a word. `resources` are the cluster's, in Ray's names."""
    wanted = {"CPU": cpus, "GPU": ranks(config)}
    if all(resources.get(name, 0) >= count for name, count in wanted.items()):
        return
    have = ", ".join(f"{resources.get(name, 0):g} {name}s" for name in wanted)
    logical = (
        " (logical: on a CPU a rank counts as a GPU)" if config.trainer.device == "cpu" else ""
    )
    raise ConfigurationError(
        f"the Ray cluster has {have} and the run asks for {cpus} and {wanted['GPU']}{logical}: "
        f"start it with `ray start --head --num-cpus={cpus} --num-gpus={wanted['GPU']}` or more "
        "nodes, or unset RAY_ADDRESS and ray_kwargs.ray_init.address for a Ray of the run's own"
    )


def unreachable(config: DictConfig, environ: Mapping[str, str], error: Exception) -> RopdError:
    """The error for a cluster that could not be joined."""
    return ConfigurationError(
        f"the Ray cluster at {address(config, environ) or 'this machine'} cannot be joined "
        f"({' '.join(str(error).split())[:200]}): start it, or correct RAY_ADDRESS or "
        "ray_kwargs.ray_init.address; a cluster with token authentication, which `ray start` turns "
        "on where it finds a token, is joined with RAY_AUTH_MODE=token and that token"
    )
