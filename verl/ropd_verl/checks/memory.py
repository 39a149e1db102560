"""How much memory and disk a student takes, estimated from its shape. Pure arithmetic.

Lower bounds: the CUDA context, NCCL's buffers, fragmentation and what vLLM compiles come on top.
Nothing here was fitted to a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

from ropd_verl.checks.shape import Shape

GB = 1e9

# Bytes of a parameter under FSDP's mixed precision: weights, gradients, two Adam states in fp32.
_WEIGHT, _GRADIENT, _ADAM = 4, 4, 8
# torch's AdamW goes over all parameters at once by default ("foreach") and takes the square root
# of every second moment before it uses the first of them.
_ADAM_ROOT = 4
_HALF = 2
# Logits once in bf16 and once in fp32, from which log-probabilities are taken.
_LOGIT = 2 + 4


@dataclass(frozen=True)
class TrainingMemory:
    """GB of one GPU, by use."""

    state: float
    """Weights and Adam states that stay on the GPU while vLLM generates."""
    backward: float
    """State, gradients, activations and logits at the end of a micro-batch's forward pass."""
    step: float
    """State, gradients and what the optimizer makes beside them, after the last micro-batch."""
    host: float
    """What offloading keeps in the node's own memory, for this GPU."""

    @property
    def update(self) -> float:
        """The peak of an update."""
        return max(self.backward, self.step)


def training_memory(
    shape: Shape,
    *,
    ranks: int,
    micro_batch_tokens: int,
    param_offload: bool,
    optimizer_offload: bool,
    gradient_checkpointing: bool,
    foreach: bool = True,
) -> TrainingMemory:
    """Memory of a training rank under FSDP2 with fp32 weights, bf16 computation and AdamW.

    ``micro_batch_tokens``: tokens in one forward pass (``ppo_max_token_len_per_gpu``, which verl
    never exceeds: it makes more micro-batches until the balanced ones fit).
    Activations are those kept by gradient checkpointing, one vector a token and layer; without
    it they are several times as much, for which 16 vectors stand here.
    ``foreach``: whether AdamW handles all parameters at once, torch's default on a GPU.
    """
    weights = shape.stored * _WEIGHT / ranks
    adam = shape.trained * _ADAM / ranks
    gradients = shape.trained * _GRADIENT / ranks
    kept = 1 if gradient_checkpointing else 16
    activations = micro_batch_tokens * shape.hidden * shape.layers * _HALF * kept
    logits = micro_batch_tokens * shape.vocabulary * _LOGIT
    roots = shape.trained * _ADAM_ROOT / ranks if foreach else 0
    stays = (0 if param_offload else weights) + (0 if optimizer_offload else adam)
    waits = (weights if param_offload else 0) + (adam if optimizer_offload else 0)
    return TrainingMemory(
        state=stays / GB,
        backward=(weights + adam + gradients + activations + logits) / GB,
        step=(weights + adam + gradients + roots) / GB,
        host=waits / GB,
    )


def checkpoint_gb(shape: Shape) -> float:
    """Disk of one checkpoint over all ranks: all weights in fp32, Adam states of the trained ones.

    Under LoRA verl saves the wrapped model: the base's weights and the adapter's.
    """
    return (shape.stored * _WEIGHT + shape.trained * _ADAM) / GB


def most_checkpoints(saved: int, keep: int | None) -> int:
    """Checkpoints of one start that are on the disk at once, of ``saved`` in all.

    verl keeps all for null and 0. It removes the oldest before it writes the next, except that
    the only one stays until the next is complete.
    """
    if keep is None or keep <= 0:
        return saved
    return min(saved, max(keep, 2))
