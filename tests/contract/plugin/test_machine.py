"""The doctor on the machine: packages, GPUs that the run is given, memory and disk as reckoned."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import _foreach_supported_types

from algo.errors import ConfigurationError
from ropd_verl.checks import machine, nvidia
from ropd_verl.checks.finding import Level, Subject
from ropd_verl.checks.memory import checkpoint_gb, most_checkpoints, training_memory
from ropd_verl.checks.shape import Shape
from ropd_verl.config import compose_config
from tests.builders.checking import levels, subject


def test_a_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda _: None)
    for override, package in (
        ("hardware=a100x8", "vllm"),
        ("attention=flash", "flash_attn"),
        ("mode=separate_async", "cupy"),
        ("adapter=lora", "peft"),
    ):
        wanted = {name: fix for name, _, fix in machine._optional_packages(subject(override))}
        assert package in wanted
        # Environments are made by uv and have no pip of their own.
        assert not [fix for fix in wanted.values() if "pip install" in fix.replace("uv pip", "")]
    with pytest.raises(ConfigurationError, match=r"vllm: start with ROPD_EXTRA=gpu"):
        list(machine.environment(subject()))


def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *rows: str) -> None:
    """An nvidia-smi on PATH that prints these rows behind their number and UUID."""
    tool = tmp_path / "nvidia-smi"
    numbered = "\n".join(f"{i}, GPU-{i}abc-{i}def, {row}" for i, row in enumerate(rows))
    tool.write_text(
        f'#!/bin/sh\n[ "$1" = --query-gpu=index,uuid,name,memory.total,memory.used ] || exit 2\n'
        f"cat <<'ROWS'\n{numbered}\nROWS\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


A100 = "NVIDIA A100-SXM4-80GB, 81920, 4"
SMALL = "NVIDIA A100-SXM4-40GB, 40960, 39000"
H100 = "NVIDIA H100 80GB HBM3, 81559, 40210"


def test_gpus_are_counted_as_the_run_will_see_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(tmp_path, monkeypatch, *[A100] * 4)
    assert nvidia.installed()[3] == nvidia.Gpu(
        3, "GPU-3abc-3def", "NVIDIA A100-SXM4-80GB", 81920, 4
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with pytest.raises(ConfigurationError, match=r"2 GPU\(s\) here and the run takes 8"):
        list(machine.graphics(subject()))
    with pytest.raises(ConfigurationError, match="takes 16"):
        list(machine.graphics(subject("hardware=multinode")))


@pytest.mark.parametrize("setting", ["1", " 1 ,0", "GPU-1abc", "GPU-1abc-1def,0"])
def test_the_gpus_that_the_run_is_given_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """The other one is too small and in use."""
    smi(tmp_path, monkeypatch, SMALL, A100)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    found = list(machine.graphics(sized("hardware=gpu1")))
    assert levels(found) == [Level.OK, Level.OK]
    assert "of 86 GB a GPU" in found[1].what
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert levels(list(machine.graphics(sized("hardware=gpu1"))))[0] is Level.WARNING


@pytest.mark.parametrize(
    ("setting", "chosen", "unknown"),
    [
        (None, [0, 1, 2], None),
        ("", [], None),
        ("2,0", [2, 0], None),
        ("GPU-1abc,2", [1, 2], None),
        ("0,7,1", [0], "7"),
        ("-1", [], "-1"),
        ("1,1", [1], "1"),
        ("GPU-", [], "GPU-"),  # names all three
        ("MIG-1abc", [], "MIG-1abc"),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(
    setting: str | None, chosen: list[int], unknown: str | None
) -> None:
    here = [nvidia.Gpu(i, f"GPU-{i}abc-{i}def", "A100", 1.0, 0.0) for i in range(3)]
    seen = nvidia.visible(here, setting)
    assert ([gpu.index for gpu in seen.gpus], seen.unknown) == (chosen, unknown)


def test_a_name_that_is_not_listed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, A100, A100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,0")
    with pytest.raises(ConfigurationError, match=r"0 GPU.* names 7, which nvidia-smi does not"):
        list(machine.graphics(sized("hardware=gpu1")))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,7")
    found = list(machine.graphics(sized("hardware=gpu1")))
    assert levels(found) == [Level.WARNING, Level.OK, Level.OK]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-0123")
    [part] = machine.graphics(sized("hardware=gpu1"))
    assert part.level is Level.NOTE
    assert "MIG-0123, a part of a GPU" in part.what


def test_gpus_of_several_kinds_are_numbered_by_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(tmp_path, monkeypatch, SMALL, A100)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    [order, *_] = machine.graphics(sized("hardware=gpu1"))
    assert order.level is Level.WARNING
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in order.fix


def test_a_gpu_without_known_memory_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(tmp_path, monkeypatch, "NVIDIA GB10, [N/A], [N/A]")
    assert levels(list(machine.graphics(sized("hardware=gpu1")))) == [Level.OK, Level.NOTE]


def test_a_busy_gpu_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, H100)
    found = list(machine.graphics(subject("hardware=gpu1")))
    assert found[0].level is Level.WARNING
    assert "40 GB in use" in found[0].what


def test_no_gpu_is_looked_for_on_a_cpu_or_on_a_cluster() -> None:
    assert list(machine.graphics(subject("hardware=cpu"))) == []
    [found] = machine.graphics(subject(environ={"RAY_ADDRESS": "auto"}))
    assert found.level is Level.NOTE


# Qwen3-4B's published shape. A layer's linear widths: q 2560+4096, k and v 2560+1024 each,
# o 4096+2560, gate and up 2560+9728 each, down 9728+2560.
QWEN3_4B = Shape(
    parameters=4_022_468_096,
    layers=36,
    hidden=2560,
    vocabulary=151_936,
    linear=36 * (2 * 6656 + 2 * 3584 + 3 * 12_288),
)
CARD_GB = 81_920 * 1.048576e6 / 1e9
"""What an "80 GB" card reports."""


class OfKnownSize(Subject):
    @property
    def shape(self) -> Shape:
        return QWEN3_4B.with_lora(self.config.actor_rollout_ref.model.lora_rank)


def sized(*overrides: str) -> Subject:
    return OfKnownSize(compose_config("ropd", list(overrides)), {})


def test_memory_of_the_shipped_hardware_fits_80_gb() -> None:
    for hardware in ("a100x8", "h100x8", "gpu1", "multinode"):
        assert levels(list(machine.memory(sized(f"hardware={hardware}"), CARD_GB))) == [Level.OK]


def test_one_gpu_without_offload_does_not_fit() -> None:
    offload = "actor_rollout_ref.actor.fsdp_config"
    [found] = machine.memory(
        sized(
            "hardware=gpu1", f"{offload}.param_offload=false", f"{offload}.optimizer_offload=false"
        ),
        CARD_GB,
    )
    assert found.level is Level.WARNING
    assert "100 GB to generate" in found.what
    assert "offload" in found.fix


def test_the_optimizers_own_peak_is_reckoned_and_can_be_spared() -> None:
    """20 bytes a parameter on one GPU: 80.4 GB, more than gradients and a micro-batch take."""
    adam = "actor_rollout_ref.actor.optim.override_optimizer_config"
    [over] = machine.memory(sized("hardware=gpu1", f"{adam}.foreach=true"), 80.0)
    assert over.level is Level.WARNING
    assert over.what.startswith("at least 80 GB to update")
    assert f"{adam}={{foreach:false}}" in over.fix
    [spared] = machine.memory(sized("hardware=gpu1"), 80.0)  # which sets it
    assert spared.level is Level.OK
    assert spared.what.startswith("at least 76 GB to update")


def test_memory_by_hand() -> None:
    """Ten parameters, two ranks, five tokens: 4 + 8 bytes of state, 4 of gradients a parameter."""
    shape = Shape(parameters=10, layers=3, hidden=2, vocabulary=7, linear=4)

    def reckoned(shape: Shape, foreach: bool = True):
        return training_memory(
            shape,
            ranks=2,
            micro_batch_tokens=5,
            param_offload=False,
            optimizer_offload=False,
            gradient_checkpointing=True,
            foreach=foreach,
        )

    kept = reckoned(shape)
    micro_batch = 5 * 2 * 3 * 2 + 5 * 7 * 6
    assert kept.state * 1e9 == pytest.approx(10 * 12 / 2)
    assert kept.backward * 1e9 == pytest.approx(10 * 16 / 2 + micro_batch)
    assert kept.step * 1e9 == pytest.approx(10 * 20 / 2)
    assert reckoned(shape, foreach=False).step * 1e9 == pytest.approx(10 * 16 / 2)
    assert kept.update == kept.backward
    assert kept.host == 0
    assert checkpoint_gb(shape) * 1e9 == pytest.approx(120)
    lora = shape.with_lora(2)
    assert reckoned(lora).backward * 1e9 == pytest.approx((18 * 4 + 8 * 12) / 2 + micro_batch)
    assert checkpoint_gb(lora) * 1e9 == pytest.approx(10 * 4 + 8 * 12)
    assert shape.with_lora(0) == shape


@pytest.mark.parametrize(("foreach", "at_once"), [(True, [3]), (False, [])])
def test_adamw_takes_all_roots_at_once(
    monkeypatch: pytest.MonkeyPatch, foreach: bool, at_once: list[int]
) -> None:
    roots: list[int] = []
    sqrt = getattr(torch, name := "_foreach_sqrt")
    monkeypatch.setattr(torch, name, lambda tensors: roots.append(len(tensors)) or sqrt(tensors))
    weights = [torch.nn.Parameter(torch.ones(4)) for _ in range(3)]
    for weight in weights:
        weight.grad = torch.ones(4)
    torch.optim.AdamW(weights, foreach=foreach).step()
    assert roots == at_once
    # FSDP2's weights are DTensors, and on a GPU torch chooses this way for them by itself.
    assert DTensor in _foreach_supported_types


def test_a_micro_batch_keeps_to_its_tokens() -> None:
    """Two batches of 10 would do by the sum of 18, but no two of the sequences fit into one."""
    from verl.utils.seqlen_balancing import rearrange_micro_batches

    lengths = [6, 6, 6]
    ids = torch.nested.nested_tensor([torch.ones(n) for n in lengths], layout=torch.jagged)
    batch = TensorDict({"input_ids": ids}, batch_size=[3])
    batches, _ = rearrange_micro_batches(batch, max_token_len=10)
    assert [micro["input_ids"].offsets().diff().tolist() for micro in batches] == [[6]] * 3


def test_disk_counts_the_checkpoints_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=int(140e9))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    [short] = machine.disk(sized())
    assert short.level is Level.WARNING
    assert short.what.startswith("3 checkpoint(s) of 48.3 GB, 140 GB free")
    [enough] = machine.disk(sized("trainer.max_actor_ckpt_to_keep=2"))
    assert enough.level is Level.OK
    [adapter] = machine.disk(sized("adapter=lora"))
    assert adapter.what.startswith("3 checkpoint(s) of 17.7 GB")


def test_verl_holds_as_many_checkpoints_at_once_as_reckoned(tmp_path: Path) -> None:
    """Its own manager, given ever more of them to save."""
    from verl.utils.checkpoint.checkpoint_manager import BaseCheckpointManager

    for keep in (None, 0, 1, 2, 3):
        manager: Any = object.__new__(BaseCheckpointManager)
        manager.previous_saved_paths = []
        folder, most = tmp_path / str(keep), 0
        for step in range(5):
            manager.ensure_checkpoint_capacity(keep)
            (folder / str(step)).mkdir(parents=True)
            most = max(most, len(list(folder.iterdir())))
            manager.register_checkpoint(str(folder / str(step)), keep)
        assert most == most_checkpoints(5, keep), f"keep={keep}"
