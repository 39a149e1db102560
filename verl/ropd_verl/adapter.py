"""A LoRA adapter put into the weights that it was trained on.

verl's merger takes an adapter apart: it writes the untrained base as the model and the adapter
into a folder beside it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from algo.errors import ConfigurationError
from algo.paths import absolute

FOLDER = "lora_adapter"
"""Where verl's merger leaves the adapter, within the model's directory."""
_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"


def peft_missing() -> str:
    """The cure. verl requires peft, so an environment without it is incomplete."""
    return f"verl requires it; uv pip install --python {sys.executable} peft"


def require_peft() -> None:
    if find_spec("peft") is None:
        raise ConfigurationError(
            f"the run trained an adapter and peft is missing: {peft_missing()}"
        )


def merge_adapter(directory: Path, model: Mapping[str, Any]) -> None:
    """Merge ``directory``/lora_adapter into the base in ``directory``, and remove the folder.

    ``model`` is the run's ``actor_rollout_ref.model``. Sums are taken in fp32, as verl does for
    its rollouts, and written in the base's type.

    Raises:
        ConfigurationError: when adapter, base and the run's configuration do not fit together.
    """
    import peft
    import torch
    import transformers
    from safetensors import safe_open

    folder = directory / FOLDER
    _settle_config(folder / _CONFIG, model)
    name = json.loads((directory / "config.json").read_text())["architectures"][0]
    base, loaded = getattr(transformers, name).from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    if missing := sorted(loaded["missing_keys"]):
        raise ConfigurationError(f"the checkpoint lacks weights of the base: {missing[0]}, ...")
    wrapped = peft.PeftModel.from_pretrained(base, folder)
    with safe_open(folder / _WEIGHTS, framework="pt") as file:
        written = set(file.keys())
    if written != set(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)):
        raise ConfigurationError("the checkpoint's adapter does not fit its base: not exported")
    merged: Any = wrapped.merge_and_unload(safe_merge=True)
    shutil.rmtree(folder)
    merged.to(torch.bfloat16).save_pretrained(directory)


def _settle_config(file: Path, model: Mapping[str, Any]) -> None:
    """Write into verl's adapter configuration the scale that the run trained with.

    verl takes it from a file beside the shards, cut to a whole number, and takes 0 where that
    file is missing, with which merging would change nothing.
    """
    written = json.loads(file.read_text())
    if model.get("lora_adapter_path"):
        own = absolute(model["lora_adapter_path"]) / _CONFIG
        if not own.is_file():
            raise ConfigurationError(
                f"actor_rollout_ref.model.lora_adapter_path={own.parent} has no {_CONFIG}, which "
                "says how the adapter is scaled: put it back for the export"
            )
        trained = json.loads(own.read_text())
    else:
        trained = written | {"r": model["lora_rank"], "lora_alpha": model["lora_alpha"]}
    told = (written["r"], written["lora_alpha"])
    if written["lora_alpha"] and told != (trained["r"], int(trained["lora_alpha"])):
        raise ConfigurationError(
            f"the checkpoint's adapter has rank {written['r']} and alpha {written['lora_alpha']}, "
            f"the run's configuration {trained['r']} and {trained['lora_alpha']}: it is of "
            "another run"
        )
    file.write_text(json.dumps(trained))
