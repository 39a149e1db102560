"""The GPUs of this machine as nvidia-smi lists them, and those that a run started here may use.

Asked of nvidia-smi: asking CUDA would leave a context of this process on every GPU.
"""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

_COLUMNS = "index,uuid,name,memory.total,memory.used"


@dataclass(frozen=True)
class Gpu:
    """One GPU; MB, None where nvidia-smi does not tell."""

    index: int
    uuid: str
    name: str
    total_mb: float | None
    used_mb: float | None


@dataclass(frozen=True)
class Visible:
    """The GPUs that CUDA shows a process, in its order."""

    gpus: tuple[Gpu, ...]
    unknown: str | None = None
    """The entry of CUDA_VISIBLE_DEVICES that names no GPU of the list; CUDA stops there."""

    @property
    def in_parts(self) -> bool:
        """Whether the run is given a part of a GPU (MIG), which nvidia-smi's list does not show."""
        return self.unknown is not None and self.unknown.startswith("MIG-")


def installed() -> list[Gpu]:
    """All GPUs; none without a driver."""
    try:
        asked = subprocess.run(
            ["nvidia-smi", f"--query-gpu={_COLUMNS}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = csv.reader(asked.stdout.splitlines(), skipinitialspace=True)
    return [
        Gpu(int(index), uuid, name, _mb(total), _mb(used))
        for index, uuid, name, total, used in (row for row in rows if len(row) == 5)
    ]


def _mb(text: str) -> float | None:
    """None for `[N/A]` and the like."""
    return float(text) if text.replace(".", "", 1).isdigit() else None


def visible(gpus: Sequence[Gpu], setting: str | None) -> Visible:
    """What ``CUDA_VISIBLE_DEVICES=setting`` leaves of ``gpus``; None means that it is not set.

    As CUDA reads it: numbers, or UUIDs that may be cut short as long as they name one GPU; the
    first entry that names none, or one again, ends the list.
    """
    if setting is None:
        return Visible(tuple(gpus))
    chosen: list[Gpu] = []
    for entry in filter(None, map(str.strip, setting.split(","))):
        named = [
            gpu
            for gpu in gpus
            if entry == str(gpu.index) or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))
        ]
        if len(named) != 1 or named[0] in chosen:
            return Visible(tuple(chosen), entry)
        chosen += named
    return Visible(tuple(chosen))
