"""Generation as fast as plain torch can: one model, written by hand, and nothing else.

A floor to measure against (`benchmarks.step`), not a rollout: it knows Qwen3 with tied embeddings
only, samples at temperature 1, and runs every row to the end of the longest. What it leaves out is
what a product needs: requests, parameters, other models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import Qwen3ForCausalLM


class LeanDecoder:
    """Qwen3's forward over a cache that is allocated once, shape [layer][rows, heads, columns]."""

    def __init__(self, student: Qwen3ForCausalLM) -> None:
        model: Any = student  # transformers types its modules too loosely to look into them
        config = model.config
        assert config.num_attention_heads == config.num_key_value_heads
        assert config.tie_word_embeddings
        self._heads, self._dim = config.num_attention_heads, config.head_dim
        self._epsilon = config.rms_norm_eps
        self._embedding = model.model.embed_tokens.weight
        self._last_norm = model.model.norm.weight
        # One product for query, key and value, and one for the two halves of the feed-forward.
        self._layers = [
            (
                torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]).t().contiguous(),
                a.o_proj.weight.t().contiguous(),
                torch.cat([m.gate_proj.weight, m.up_proj.weight]).t().contiguous(),
                m.down_proj.weight.t().contiguous(),
                (layer.input_layernorm.weight, layer.post_attention_layernorm.weight),
                (a.q_norm.weight, a.k_norm.weight),
            )
            for layer in model.model.layers
            for a, m in [(layer.self_attn, layer.mlp)]
        ]
        self._frequencies = model.model.rotary_emb.inv_freq

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        eos: int,
        *,
        greedy: bool = False,
    ) -> list[list[int]]:
        """Sampled answers, each with its ``eos`` where it came to one."""
        rows, width = len(prompts), max(map(len, prompts))
        shape = (len(self._layers), 2, rows, self._heads, width + max_tokens, self._dim)
        cache = self._embedding.new_zeros(shape)
        starts = torch.tensor([width - len(prompt) for prompt in prompts])
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
        columns = torch.arange(width + max_tokens)
        visible = columns >= starts[:, None]
        # A padded position may see itself: a row of nothing has no softmax.
        prefill = (columns[:width] <= columns[:width, None]) & visible[:, None, None, :width]
        prefill = prefill | torch.eye(width, dtype=torch.bool)
        positions = (columns[:width] - starts[:, None]).clamp(min=0)
        logits = self._forward(ids, positions, cache, 0, prefill)
        count, answers = 0, torch.zeros(rows, max_tokens, dtype=torch.long)
        running = torch.ones(rows, dtype=torch.bool)
        for count in range(max_tokens):
            if greedy:
                tokens = logits.argmax(dim=-1)
            else:
                noise = torch.empty_like(logits).exponential_()
                tokens = (logits.softmax(dim=-1) / noise).argmax(dim=-1)
            answers[:, count] = tokens
            running &= tokens != eos
            if not running.any() or count + 1 == max_tokens:
                break
            end = width + count
            mask = visible[:, None, None, : end + 1]
            logits = self._forward(tokens[:, None], (end - starts)[:, None], cache, end, mask)
        return [_until(row, eos) for row in answers[:, : count + 1].tolist()]

    def _forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        cache: torch.Tensor,
        start: int,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """Logits of the last column, shape ``(rows, vocabulary)``."""
        rows, length = ids.shape
        end = start + length
        angles = positions[:, None, :, None] * self._frequencies
        cos, sin = angles.cos(), angles.sin()
        hidden = functional.embedding(ids, self._embedding)
        for layer, (attend, out, gate_up, down, norms, head_norms) in enumerate(self._layers):
            projected = self._norm(hidden, norms[0]) @ attend
            query, key, value = projected.view(rows, length, 3, self._heads, self._dim).unbind(2)
            keys, values = cache[layer]
            query = _rotated(self._norm(query, head_norms[0]).transpose(1, 2), cos, sin)
            keys[:, :, start:end] = _rotated(
                self._norm(key, head_norms[1]).transpose(1, 2), cos, sin
            )
            values[:, :, start:end] = value.transpose(1, 2)
            mixed = functional.scaled_dot_product_attention(
                query, keys[:, :, :end], values[:, :, :end], attn_mask=mask
            )
            hidden = hidden + mixed.transpose(1, 2).reshape(rows, length, -1) @ out
            gate, up = (self._norm(hidden, norms[1]) @ gate_up).chunk(2, dim=-1)
            hidden = hidden + (functional.silu(gate) * up) @ down
        return self._norm(hidden[:, -1], self._last_norm) @ self._embedding.t()

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, weight.shape, weight, self._epsilon)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _until(tokens: list[int], eos: int) -> list[int]:
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens
