"""verl's platform interface for training on a CPU.

Chosen only by name (``trainer.device=cpu`` makes the entry point set ``VERL_PLATFORM=cpu``):
`is_platform_available` says no, so that verl's own detection never picks it on the
GPU-less driver node of a GPU cluster.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase

PLATFORM = "cpu"


class _CpuModule(types.ModuleType):
    """What verl expects of ``torch.<device>``: `torch.cpu`, and no-ops for memory management."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(torch.cpu, name)


def _device_module() -> types.ModuleType:
    module = _CpuModule("ropd_verl_torch_cpu")
    nothing = {
        name: (lambda *_, **__: None)
        for name in ("empty_cache", "reset_peak_memory_stats", "ipc_collect", "set_device")
    }
    no_memory = {
        name: (lambda *_, **__: 0)
        for name in (
            "max_memory_allocated",
            "max_memory_reserved",
            "memory_allocated",
            "memory_reserved",
        )
    }
    module.__dict__.update(
        nothing,
        **no_memory,
        mem_get_info=lambda *_, **__: (0, 0),
        get_rng_state=torch.get_rng_state,
        set_rng_state=torch.set_rng_state,
        manual_seed=torch.manual_seed,
        get_device_name=lambda *_, **__: "CPU",
        device=lambda *_, **__: nullcontext(),
    )
    return module


_MODULE = _device_module()


class CpuPlatform(PlatformBase):
    """A machine without accelerators; Ray's logical "GPU" resource counts training ranks."""

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> types.ModuleType:
        return _MODULE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return False

    def current_device(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return (None, None)

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        yield

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None
