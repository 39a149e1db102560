"""Batched autoregressive generation with a Hugging Face causal language model.

The batch is static: it starts with the requests given and ends when the last has finished.
Each request is reported the moment it finishes, rows that have finished leave the
computation, and a stop signal returns what there is so far, marked as aborted. This module
owns no queue, no process and no weights update; `transformers_rollout` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import GenerationConfig, PreTrainedModel

from ropd_verl.cpu.sampling import SamplingParams, draw, sampling_log_probs, top_log_probs

# Rows are dropped from the key-value cache once this share of the batch has finished: dropping
# copies the cache, so doing it for every finished row would cost more than it saves.
_COMPACT_BELOW = 0.75


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt (token ids) and how to continue it."""

    prompt_ids: Sequence[int]
    params: SamplingParams


@dataclass
class Completion:
    """What one request got: sampled tokens with their log-probabilities, and why it ended.

    ``reason`` is "stop" (an end-of-sequence token, which is included), "length" or "aborted".
    ``prompt_ids``/``prompt_log_probs`` follow `sampling.top_log_probs` when they were asked for.
    """

    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    reason: Literal["stop", "length", "aborted"] = "aborted"
    prompt_ids: list[list[int]] | None = None
    prompt_log_probs: list[list[float]] | None = None


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    requests: Sequence[GenerationRequest],
    *,
    eos_token_ids: frozenset[int],
    shared_rng: torch.Generator,
    on_finished: Callable[[int, Completion], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Generate for all requests together and report each one once, in order of finishing.

    ``on_finished(index, completion)`` is called from the calling thread. When ``should_stop``
    turns true, the unfinished requests are reported as aborted with the tokens they have.
    """
    completions = [Completion() for _ in requests]
    generators = [_generator(r.params) for r in requests]
    input_ids, attention_mask = _left_padded([r.prompt_ids for r in requests])
    wants_prompt = any(r.params.prompt_logprobs is not None for r in requests)

    output = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=_positions(attention_mask),
        use_cache=True,
        logits_to_keep=0 if wants_prompt else 1,
    )
    if wants_prompt:
        _score_prompts(requests, output.logits, completions)

    rows = list(range(len(requests)))  # row of the computation -> index of the request
    live = [True] * len(rows)
    logits = output.logits[:, -1]
    cache = output.past_key_values
    while True:
        log_probs = sampling_log_probs(logits, [requests[i].params for i in rows])
        tokens = draw(log_probs, [generators[i] for i in rows], shared_rng)
        chosen = log_probs.gather(1, tokens[:, None])[:, 0].tolist()
        for row, token in enumerate(tokens.tolist()):
            index = rows[row]
            if not live[row]:
                continue
            completion = completions[index]
            completion.token_ids.append(token)
            completion.log_probs.append(chosen[row])
            if token in eos_token_ids:
                completion.reason = "stop"
            elif len(completion.token_ids) >= requests[index].params.max_tokens:
                completion.reason = "length"
            else:
                continue
            live[row] = False
            on_finished(index, completion)
        if not any(live):
            return
        if should_stop():
            for row, index in enumerate(rows):
                if live[row]:
                    on_finished(index, completions[index])
            return
        if sum(live) < _COMPACT_BELOW * len(rows):
            kept = torch.tensor([row for row, alive in enumerate(live) if alive])
            cache.batch_select_indices(kept)
            tokens, attention_mask = tokens[kept], attention_mask[kept]
            rows = [rows[row] for row in kept.tolist()]
            live = [True] * len(rows)
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(rows), 1)], dim=1)
        output = model(
            input_ids=tokens[:, None],
            attention_mask=attention_mask,
            position_ids=_positions(attention_mask)[:, -1:],
            past_key_values=cache,
            use_cache=True,
        )
        logits, cache = output.logits[:, -1], output.past_key_values


def _generator(params: SamplingParams) -> torch.Generator | None:
    return None if params.seed is None else torch.Generator().manual_seed(params.seed)


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    if not all(prompts):
        raise ValueError("a prompt without tokens cannot be continued")
    width = max(len(prompt) for prompt in prompts)
    input_ids = torch.zeros(len(prompts), width, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        attention_mask[row, width - len(prompt) :] = 1
    return input_ids, attention_mask


def _positions(attention_mask: torch.Tensor) -> torch.Tensor:
    return (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)


def _score_prompts(
    requests: Sequence[GenerationRequest], logits: torch.Tensor, completions: Sequence[Completion]
) -> None:
    for row, request in enumerate(requests):
        k = request.params.prompt_logprobs
        if k is None:
            continue
        length = len(request.prompt_ids)
        targets = torch.tensor(list(request.prompt_ids[1:]), dtype=torch.long)
        ids, values = top_log_probs(logits[row, -length:-1], targets, k)
        completions[row].prompt_ids, completions[row].prompt_log_probs = ids, values


def eos_token_ids(generation_config: GenerationConfig | None, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: those the model declares, and the tokenizer's."""
    declared: Any = getattr(generation_config, "eos_token_id", None)
    ids = declared if isinstance(declared, list) else [declared]
    return frozenset(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None)
