"""attention=sdpa keeps sequences apart that verl packs into one row, for both shipped students.

verl's engine hands the model packed tokens with restarting positions and no mask
(`use_remove_padding`); with flash-attn its kernels read the borders from the positions, with sdpa
transformers has to build the mask.
"""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from verl.models.transformers.monkey_patch import patch_forward_with_backends
from verl.utils.torch_functional import logprobs_from_logits

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "attn_implementation": "sdpa",
}


def qwen3() -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**SMALL))


def gemma3() -> PreTrainedModel:
    """With a sliding layer whose window is shorter than the sequences."""
    layers = ["sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, sliding_window=4, layer_types=layers))


@pytest.mark.parametrize("make", [qwen3, gemma3], ids=["qwen3", "gemma3"])
def test_packed_logits_are_those_of_each_sequence_alone(make) -> None:
    torch.manual_seed(0)
    model = make().train()  # as in an update; neither has dropout
    sequences = [torch.randint(0, 50, (length,)) for length in (7, 3, 11)]
    packed = torch.cat(sequences)[None]
    positions = torch.cat([torch.arange(len(s)) for s in sequences])[None]
    with torch.no_grad():
        together = model(
            input_ids=packed, position_ids=positions, attention_mask=None, use_cache=False
        ).logits[0]
        apart = torch.cat([model(input_ids=s[None], use_cache=False).logits[0] for s in sequences])
        mixed = model(input_ids=packed, use_cache=False).logits[0]
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mixed, apart, atol=1e-3)  # the positions do make the difference


@pytest.mark.parametrize("make", [qwen3, gemma3], ids=["qwen3", "gemma3"])
def test_fused_log_probabilities_and_gradients_are_the_plain_ones(make) -> None:
    """``actor_rollout_ref.model.use_fused_kernels=true``, for which docs/installation.md speaks."""
    torch.manual_seed(0)
    plain = make()
    fused = copy.deepcopy(plain)
    # verl replaces the class's own forward: a class of this test's, so that no other sees it.
    fused.__class__ = type("Fused", (type(fused),), {})
    patch_forward_with_backends(fused, use_fused_kernels=True, fused_kernels_backend="torch")
    # More than one of its chunks of 512 tokens.
    sequences = [torch.randint(0, 50, (length,)) for length in (400, 300)]
    packed = torch.cat(sequences)[None]
    inputs = {
        "input_ids": packed,
        "position_ids": torch.cat([torch.arange(len(s)) for s in sequences])[None],
        "attention_mask": None,
        "use_cache": False,
    }
    labels = packed.roll(-1, dims=1)
    weights = torch.randn(packed.shape[1])  # as advantages, of both signs

    expected = logprobs_from_logits(plain(**inputs).logits[0] / 0.7, labels[0])
    output = fused(**inputs, temperature=0.7, return_dict=True, shift_labels=labels)
    torch.testing.assert_close(output.log_probs[0], expected, rtol=1e-4, atol=1e-5)
    (expected * weights).sum().backward()
    (output.log_probs[0] * weights).sum().backward()
    for (name, one), other in zip(plain.named_parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-4, msg=name)
