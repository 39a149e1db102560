"""How much memory and disk a student takes, reckoned from its shape. Pure arithmetic.

Lower bounds: the CUDA context, NCCL's buffers, fragmentation and what vLLM compiles come on top.
Nothing here was fitted to a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9

# Bytes of a parameter under FSDP's mixed precision: weights, gradients, two Adam states in fp32.
_WEIGHT, _GRADIENT, _ADAM = 4, 4, 8
# A checkpoint holds fp32 weights and both Adam states.
CHECKPOINT_BYTES_A_PARAMETER = _WEIGHT + _ADAM
_HALF = 2
# Logits once in bf16 and once in fp32, from which log-probabilities are taken.
_LOGIT = 2 + 4


@dataclass(frozen=True)
class Shape:
    """A causal language model: parameters, of which trained; layers, width, vocabulary."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    trained: int | None = None
    """Parameters that get gradients; None means all (LoRA trains few)."""


@dataclass(frozen=True)
class TrainingMemory:
    """GB of one GPU, by use."""

    state: float
    """Weights and Adam states that stay on the GPU while vLLM generates."""
    update: float
    """State, gradients, activations and logits at the peak of an update."""
    host: float
    """What offloading keeps in the node's own memory, for this GPU."""


def training_memory(
    shape: Shape,
    *,
    ranks: int,
    micro_batch_tokens: int,
    param_offload: bool,
    optimizer_offload: bool,
    gradient_checkpointing: bool,
) -> TrainingMemory:
    """Memory of a training rank under FSDP2 with fp32 weights and bf16 computation.

    ``micro_batch_tokens``: tokens in one forward pass (``ppo_max_token_len_per_gpu``).
    Activations are those kept by gradient checkpointing, one vector a token and layer; without
    it they are several times as much, for which 16 vectors stand here.
    """
    trained = shape.parameters if shape.trained is None else shape.trained
    weights = shape.parameters * _WEIGHT / ranks
    adam = trained * _ADAM / ranks
    gradients = trained * _GRADIENT / ranks
    kept = 1 if gradient_checkpointing else 16
    activations = micro_batch_tokens * shape.hidden * shape.layers * _HALF * kept
    logits = micro_batch_tokens * shape.vocabulary * _LOGIT
    stays = (0 if param_offload else weights) + (0 if optimizer_offload else adam)
    waits = (weights if param_offload else 0) + (adam if optimizer_offload else 0)
    return TrainingMemory(
        state=stays / GB,
        update=(weights + adam + gradients + activations + logits) / GB,
        host=waits / GB,
    )


def checkpoint_gb(shape: Shape) -> float:
    """Disk of one checkpoint: fp32 weights and Adam states, over all ranks."""
    return shape.parameters * CHECKPOINT_BYTES_A_PARAMETER / GB
