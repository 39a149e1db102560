"""How the next token is drawn: one request's sampling parameters, and their batched application.

Pure functions on tensors; nothing here knows models, servers or verl. The distribution
sampled from is temperature scaling, then top-k, then top-p, renormalised, which is the
order vLLM uses, and log-probabilities are reported under exactly that distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# Requested by verl or by OpenAI-style clients, and without effect on a full-vocabulary sampler.
_NO_EFFECT = frozenset({"logprobs", "detokenize", "skip_special_tokens"})
_ONLY_DEFAULT = {
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "min_p": 0.0,
    "ignore_eos": False,
    "n": 1,
}


@dataclass(frozen=True)
class SamplingParams:
    """What one request asks for.

    ``temperature`` 0 means greedy decoding; ``top_k`` below 1 and ``top_p`` 1.0 switch the
    filter off; ``prompt_logprobs`` k asks for the k likeliest tokens at each prompt position
    (0: the prompt's own tokens).
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    seed: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")

    @classmethod
    def from_request(cls, request: Mapping[str, Any], *, default_max_tokens: int) -> SamplingParams:
        """Read a request's dictionary; a parameter that would be ignored is an error.

        Raises:
            ValueError: for an unknown parameter, or a known one that this backend cannot honour.
        """
        values = {k: v for k, v in request.items() if v is not None and k not in _NO_EFFECT}
        for name, default in _ONLY_DEFAULT.items():
            if values.pop(name, default) != default:
                raise ValueError(
                    f"rollout.name=transformers does not support {name}; leave it at {default}"
                )
        limits = [values.pop(k) for k in ("max_tokens", "max_new_tokens") if k in values]
        known = {"temperature", "top_p", "top_k", "seed", "prompt_logprobs"}
        unknown = sorted(values.keys() - known)
        if unknown:
            raise ValueError(f"rollout.name=transformers does not support {', '.join(unknown)}")
        return cls(max_tokens=int(limits[0]) if limits else default_max_tokens, **values)


def sampling_log_probs(logits: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Log-probabilities of the distribution that each row is sampled from.

    Args:
        logits: raw scores, shape ``(batch, vocabulary)``.
        params: one entry a row.

    Returns:
        Same shape; filtered tokens are ``-inf``; a greedy row is a point mass (0 at its argmax).
    """
    temperatures = logits.new_tensor([p.temperature for p in params])
    scaled = logits.float() / temperatures.clamp(min=1e-8).where(temperatures > 0, 1.0)[:, None]
    if any(p.top_k > 0 or p.top_p < 1.0 for p in params):
        scaled = _filtered(scaled, params)
    log_probs = scaled.log_softmax(dim=-1)
    greedy = temperatures == 0
    if greedy.any():
        point_mass = torch.full_like(log_probs, -torch.inf)
        point_mass.scatter_(1, logits.argmax(dim=-1, keepdim=True), 0.0)
        log_probs = torch.where(greedy[:, None], point_mass, log_probs)
    return log_probs


def _filtered(scaled: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    vocabulary = scaled.shape[-1]
    top_k = torch.tensor([p.top_k if 0 < p.top_k < vocabulary else vocabulary for p in params])
    top_p = torch.tensor([p.top_p for p in params], dtype=scaled.dtype)
    ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(vocabulary)
    ordered = ordered.masked_fill(rank >= top_k[:, None], -torch.inf)
    probabilities = ordered.softmax(dim=-1)
    # A token stays when the mass before it has not reached top_p, so the likeliest always stays.
    before = probabilities.cumsum(dim=-1) - probabilities
    ordered = ordered.masked_fill((before >= top_p[:, None]) & (rank > 0), -torch.inf)
    return torch.empty_like(ordered).scatter_(1, order, ordered)


def draw(
    log_probs: torch.Tensor,
    generators: Sequence[torch.Generator | None],
    shared: torch.Generator,
) -> torch.Tensor:
    """Draw one token a row with the exponential-race form of categorical sampling.

    A row with a generator of its own gets the same tokens whatever else is in its batch;
    the other rows share ``shared``. Returns token ids, shape ``(batch,)``.
    """
    noise = torch.empty_like(log_probs).exponential_(generator=shared)
    for row, generator in enumerate(generators):
        if generator is not None:
            noise[row].exponential_(generator=generator)
    # A draw of exactly zero would make a filtered token (-inf) compare as NaN.
    return (log_probs - noise.clamp(min=1e-30).log()).argmax(dim=-1)


def top_log_probs(logits: torch.Tensor, targets: torch.Tensor, k: int) -> tuple[list, list]:
    """Token ids and log-probabilities at each position, in verl's ``prompt_logprobs`` layout.

    Args:
        logits: shape ``(length - 1, vocabulary)``, the prediction of tokens 1..length-1.
        targets: those tokens, shape ``(length - 1,)``.
        k: 0 for the targets themselves, else the k likeliest tokens by rank.

    Returns:
        ``(ids, log_probs)``, each ``length`` rows of ``max(k, 1)``; the last row is a filler,
        because nothing follows the last token.
    """
    log_probs = logits.float().log_softmax(dim=-1)
    if k == 0:
        ids = targets[:, None]
        values = log_probs.gather(-1, ids)
    else:
        values, ids = log_probs.topk(k, dim=-1)
    filler = max(k, 1)
    return [*ids.tolist(), [0] * filler], [*values.tolist(), [0.0] * filler]
