"""Autoregressive generation of a batch that requests join and leave at any token.

A request joins between two tokens of the others: its prompt is read in a forward of its own (equal
prompts once, as the n rollouts of a prompt have them), and from then on it is a row of the batch.
What it gets depends on its prompt, its parameters and the weights alone, not on who else is there.
A row leaves the moment it ends. Per token, Python does the same few calls whatever the number of
rows; only a row that joins or leaves costs more.

This module owns no queue, no process and no weights update; `transformers_rollout` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel

from ropd_verl.cpu.cache import RunningCache, Window
from ropd_verl.cpu.sampling import (
    RowSampling,
    SamplingParams,
    draw,
    sampling_log_probs,
    top_log_probs,
    uniforms,
)

# Prompts are read in forwards of at most so many tokens, padding included: what a forward computes
# on the way takes memory in proportion.
_PREFILL_TOKENS = 16384


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """A prompt (token ids) and how to continue it. Equal only to itself."""

    prompt_ids: Sequence[int]
    params: SamplingParams

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("a prompt without tokens cannot be continued")


@dataclass(frozen=True)
class Completion:
    """What one request got: sampled tokens with their log-probabilities, and why it ended.

    ``reason`` is "stop" (an end-of-sequence token, which is included), "length" or "aborted".
    ``prompt_ids``/``prompt_log_probs`` follow `sampling.top_log_probs` when they were asked for.
    """

    token_ids: list[int]
    log_probs: list[float]
    reason: Literal["stop", "length", "aborted"]
    prompt_ids: list[list[int]] | None = None
    prompt_log_probs: list[list[float]] | None = None


class Finished(NamedTuple):
    """A request that has left the batch, and what it got."""

    request: GenerationRequest
    completion: Completion


class _Rows(NamedTuple):
    """What is known of each row, in the order of the cache's rows; tensors of shape ``(rows,)``."""

    prompt: torch.Tensor
    """Column of the prompt's first token."""
    answer: torch.Tensor
    """Column of the first sampled token."""
    last: torch.Tensor
    """Column of the last token that its limit allows."""
    token: torch.Tensor
    """Sampled last, and not yet read by the model."""

    def at(self, index: torch.Tensor) -> _Rows:
        return _Rows(*(column[index] for column in self))

    def moved(self, shift: int) -> _Rows:
        return _Rows(self.prompt + shift, self.answer + shift, self.last + shift, self.token)


class RunningBatch:
    """The requests that are generated together.

    Args:
        model: any causal language model that keeps keys and values (`cache`), in evaluation mode.
        eos_token_ids: the tokens that end an answer.
        shared_rng: where requests without a seed get theirs from.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        eos_token_ids: frozenset[int],
        shared_rng: torch.Generator,
    ) -> None:
        self._model = model
        self._eos = eos_token_ids
        self._eos_ids = torch.tensor(sorted(eos_token_ids), dtype=torch.long)
        self._rng = shared_rng
        self.discard()

    def discard(self) -> None:
        """Forget all requests, and what has been allocated for them."""
        self._window = Window()
        self._cache = RunningCache(self._window)
        self._requests: list[GenerationRequest] = []
        self._prompt_scores: dict[GenerationRequest, tuple[list, list]] = {}
        none = torch.zeros(0, dtype=torch.long)
        self._rows = _Rows(none, none, none, none)
        self._sampling = RowSampling.of([], self._rng)
        # Sampled tokens and their log-probabilities, by row and column like the cache.
        self._tokens = torch.zeros(0, 0, dtype=torch.long)
        self._log_probs = torch.zeros(0, 0)

    def __len__(self) -> int:
        return len(self._requests)

    @torch.inference_mode()
    def join(self, requests: Sequence[GenerationRequest]) -> list[Finished]:
        """Read the prompts and sample the first token of each; returns what has ended with that."""
        finished: list[Finished] = []
        for prompts, members in _prefills(requests):
            finished += self._prefill(prompts, members)
        return finished

    @torch.inference_mode()
    def step(self) -> list[Finished]:
        """One more token for every row; returns the requests that have ended with it."""
        window = self._window
        self._make_room(window.rows, 0)
        rows, end = self._rows, window.end
        columns = torch.arange(window.start, end + 1)
        output = self._model(
            input_ids=rows.token[:, None],
            attention_mask=(columns >= rows.prompt[:, None]).long(),
            position_ids=(end - rows.prompt)[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        window.end += 1
        return self._sample(output.logits[:, -1], slice(0, window.rows))

    @torch.inference_mode()
    def abort(self) -> list[Finished]:
        """End every request with what it has."""
        return self._leave(torch.arange(len(self)), aborted=True)

    def _prefill(
        self, prompts: list[Sequence[int]], members: list[tuple[GenerationRequest, int]]
    ) -> list[Finished]:
        """Add ``members``, each with the place of its prompt in ``prompts``."""
        requests = [request for request, _ in members]
        sources = torch.tensor([place for _, place in members])
        input_ids, attention_mask = _left_padded(prompts)
        wants_prompt = any(r.params.prompt_logprobs is not None for r in requests)
        cache = DynamicCache()
        output = self._model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=(attention_mask.cumsum(dim=-1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=0 if wants_prompt else 1,
        )
        if wants_prompt:
            for request, place in members:
                self._score_prompt(request, output.logits[place])

        window, before = self._window, len(self)
        if not before:
            window.start = window.end = input_ids.shape[1]
        self._make_room(before + len(members), input_ids.shape[1])
        self._cache.adopt(cache, sources)
        window.rows += len(members)
        lengths = torch.tensor([len(r.prompt_ids) for r in requests])
        limits = torch.tensor([r.params.max_tokens for r in requests])
        end = torch.full_like(lengths, window.end)
        new = _Rows(end - lengths, end, end + limits - 1, torch.zeros_like(lengths))
        self._rows = _Rows(*map(torch.cat, zip(self._rows, new, strict=True)))
        self._sampling = self._sampling.followed_by(
            RowSampling.of([r.params for r in requests], self._rng)
        )
        self._requests += requests
        window.start = int(self._rows.prompt.min())
        return self._sample(output.logits[sources, -1], slice(before, window.rows))

    def _sample(self, logits: torch.Tensor, rows: slice) -> list[Finished]:
        """Sample the token that comes next, at the window's end, for ``rows``."""
        end, place = self._window.end, torch.arange(rows.start, rows.stop)
        sampling = self._sampling if len(place) == len(self) else self._sampling.rows(place)
        log_probs = sampling_log_probs(logits, sampling)
        tokens = draw(log_probs, uniforms(sampling.seed, end - self._rows.prompt[rows]))
        self._rows.token[rows] = tokens
        self._tokens[rows, end] = tokens
        self._log_probs[rows, end] = log_probs.gather(1, tokens[:, None])[:, 0]
        ended = torch.isin(tokens, self._eos_ids) | (self._rows.last[rows] == end)
        return self._leave(place[ended]) if ended.any() else []

    def _leave(self, ended: torch.Tensor, *, aborted: bool = False) -> list[Finished]:
        """Take the rows at ``ended`` (ascending) out; the last rows fill their places."""
        finished = [
            Finished(self._requests[row], self._completion(row, aborted)) for row in ended.tolist()
        ]
        window = self._window
        left = torch.ones(window.rows, dtype=torch.bool)
        left[ended] = False
        kept = window.rows - len(ended)
        holes, movers = ended[ended < kept], left[kept:].nonzero()[:, 0] + kept
        order = torch.arange(kept)
        order[holes] = movers
        if len(holes):
            self._cache.move_rows(movers, holes)
            self._tokens[holes] = self._tokens[movers]
            self._log_probs[holes] = self._log_probs[movers]
        self._requests = [self._requests[row] for row in order.tolist()]
        self._rows, self._sampling = self._rows.at(order), self._sampling.rows(order)
        window.rows = kept
        if kept:
            window.start = int(self._rows.prompt.min())
        return finished

    def _completion(self, row: int, aborted: bool) -> Completion:
        request = self._requests[row]
        # The token at the end has been sampled, though the model has not read it.
        answer = slice(int(self._rows.answer[row]), self._window.end + 1)
        tokens = self._tokens[row, answer].tolist()
        ended = "stop" if tokens[-1] in self._eos else "length"
        prompt_ids, prompt_log_probs = self._prompt_scores.pop(request, (None, None))
        log_probs = self._log_probs[row, answer].tolist()
        return Completion(
            tokens, log_probs, "aborted" if aborted else ended, prompt_ids, prompt_log_probs
        )

    def _make_room(self, rows: int, width: int) -> None:
        window = self._window
        capacities = window.row_capacity, window.columns
        # The cache moves the window's content, and only then the window's own columns move.
        shift = self._cache.make_room(rows, width)
        if capacities != (window.row_capacity, window.columns) or shift:
            self._tokens = window.grown(self._tokens, shift, dim=1)
            self._log_probs = window.grown(self._log_probs, shift, dim=1)
            self._rows = self._rows.moved(shift)
            window.start += shift
            window.end += shift

    def _score_prompt(self, request: GenerationRequest, logits: torch.Tensor) -> None:
        k = request.params.prompt_logprobs
        if k is not None:
            length = len(request.prompt_ids)
            targets = torch.tensor(list(request.prompt_ids[1:]), dtype=torch.long)
            self._prompt_scores[request] = top_log_probs(logits[-length:-1], targets, k)


def _prefills(
    requests: Sequence[GenerationRequest],
) -> Iterator[tuple[list[Sequence[int]], list[tuple[GenerationRequest, int]]]]:
    """Cut ``requests`` into forwards: different prompts of like length, and who has which."""
    sharing: dict[tuple[int, ...], list[GenerationRequest]] = {}
    for request in requests:
        sharing.setdefault(tuple(request.prompt_ids), []).append(request)
    prompts: list[Sequence[int]] = []
    members: list[tuple[GenerationRequest, int]] = []
    for prompt in sorted(sharing, key=len):
        if prompts and len(prompt) * (len(prompts) + 1) > _PREFILL_TOKENS:
            yield prompts, members
            prompts, members = [], []
        members += [(request, len(prompts)) for request in sharing[prompt]]
        prompts.append(prompt)
    if prompts:
        yield prompts, members


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(prompt) for prompt in prompts)
    input_ids = torch.zeros(len(prompts), width, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        attention_mask[row, width - len(prompt) :] = 1
    return input_ids, attention_mask


def eos_token_ids(generation_config: GenerationConfig | None, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: those the model declares, and the tokenizer's."""
    declared: Any = getattr(generation_config, "eos_token_id", None)
    ids = declared if isinstance(declared, list) else [declared]
    return frozenset(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None)
