"""A student's size, from its configuration alone: what memory and disk are estimated from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache


@dataclass(frozen=True)
class Shape:
    """A causal language model: parameters, layers, width, vocabulary; what LoRA adds to it."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    linear: int = 0
    """Inputs and outputs of all linear layers but the head, summed: LoRA's parameters at rank 1."""
    adapter: int | None = None
    """LoRA's parameters, which alone are trained then; None means that every weight trains."""

    def with_lora(self, rank: int) -> Shape:
        """With an adapter on every linear layer; the same for rank 0, which means none.

        An adapter on fewer layers (``target_modules``) is smaller.
        """
        return replace(self, adapter=rank * self.linear) if rank > 0 else self

    @property
    def stored(self) -> int:
        """All parameters, the adapter's included."""
        return self.parameters + (self.adapter or 0)

    @property
    def trained(self) -> int:
        """Parameters that get gradients and Adam states."""
        return self.parameters if self.adapter is None else self.adapter


def local_shape(path: str) -> Shape | None:
    """A student's size, without a network and without its weights.

    None when its configuration is not on this machine or names a class that is no causal model.
    """
    try:
        return _shape(path)
    except (OSError, ValueError):
        return None


# Only what was found is remembered: a student that is not here yet may be fetched later.
@lru_cache(maxsize=4)
def _shape(path: str) -> Shape:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    head = model.get_output_embeddings()
    return Shape(
        parameters=sum(p.numel() for p in model.parameters()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        linear=sum(
            module.in_features + module.out_features
            for module in model.modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        ),
    )
