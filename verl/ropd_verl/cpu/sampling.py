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

# Seeds lie below this: what a signed 64-bit integer holds.
_SEEDS = (1 << 63) - 1
_GOLDEN = -0x61C8864680B583EB

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


@dataclass(frozen=True)
class RowSampling:
    """The sampling parameters of a batch's rows, one tensor a parameter, shape ``(rows,)``."""

    temperature: torch.Tensor
    top_p: torch.Tensor
    top_k: torch.Tensor
    seed: torch.Tensor

    @classmethod
    def of(cls, params: Sequence[SamplingParams], shared: torch.Generator) -> RowSampling:
        """Those of ``params``; a row without a seed takes one from ``shared``."""
        drawn = torch.randint(_SEEDS, (len(params),), generator=shared)
        own = [(row, p.seed % _SEEDS) for row, p in enumerate(params) if p.seed is not None]
        for row, seed in own:
            drawn[row] = seed
        return cls(
            torch.tensor([p.temperature for p in params], dtype=torch.float32),
            torch.tensor([p.top_p for p in params], dtype=torch.float32),
            torch.tensor([p.top_k for p in params]),
            drawn,
        )

    def followed_by(self, other: RowSampling) -> RowSampling:
        """These rows, then those of ``other``."""
        return RowSampling(*map(torch.cat, zip(_columns(self), _columns(other), strict=True)))

    def rows(self, index: torch.Tensor) -> RowSampling:
        """The rows at ``index``, in that order."""
        return RowSampling(*(column[index] for column in _columns(self)))


def _columns(rows: RowSampling) -> tuple[torch.Tensor, ...]:
    return rows.temperature, rows.top_p, rows.top_k, rows.seed


def sampling_log_probs(logits: torch.Tensor, rows: RowSampling) -> torch.Tensor:
    """Log-probabilities of the distribution that each row is sampled from.

    Args:
        logits: raw scores, shape ``(rows, vocabulary)``.
        rows: how each row is sampled.

    Returns:
        Same shape; filtered tokens are ``-inf``; a greedy row is a point mass (0 at its argmax).
    """
    temperature = rows.temperature[:, None]
    greedy = temperature == 0
    scaled = logits.float() / temperature.clamp(min=1e-8).masked_fill(greedy, 1.0)
    if (rows.top_k > 0).any() or (rows.top_p < 1.0).any():
        scaled = _filtered(scaled, rows)
    log_probs = scaled.log_softmax(dim=-1)
    if greedy.any():
        point_mass = torch.full_like(log_probs, -torch.inf)
        point_mass.scatter_(1, logits.argmax(dim=-1, keepdim=True), 0.0)
        log_probs = torch.where(greedy, point_mass, log_probs)
    return log_probs


def _filtered(scaled: torch.Tensor, rows: RowSampling) -> torch.Tensor:
    vocabulary = scaled.shape[-1]
    top_k = torch.where(rows.top_k > 0, rows.top_k, vocabulary)
    ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(vocabulary)
    ordered = ordered.masked_fill(rank >= top_k[:, None], -torch.inf)
    probabilities = ordered.softmax(dim=-1)
    # A token stays when the mass before it has not reached top_p, so the likeliest always stays.
    before = probabilities.cumsum(dim=-1) - probabilities
    top_p = rows.top_p[:, None]
    # At 1.0 nothing is left out, though the sum before a rare token may be rounded up to it.
    beyond = (before >= top_p) & (top_p < 1.0) & (rank > 0)
    ordered = ordered.masked_fill(beyond, -torch.inf)
    return torch.empty_like(ordered).scatter_(1, order, ordered)


def draw(log_probs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """One token a row, by the inverse of its cumulative distribution.

    Args:
        log_probs: shape ``(rows, vocabulary)``, ``-inf`` for what must not be drawn.
        uniform: one number in [0, 1) a row, see `uniforms`.

    Returns:
        Token ids, shape ``(rows,)``.
    """
    # In double: in single precision a large vocabulary's tail would vanish in the sums.
    cumulative = log_probs.double().exp().cumsum(dim=-1)
    target = uniform * cumulative[:, -1]
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]


def uniforms(seed: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """A number in [0, 1) for each seed and position, double, shape ``(rows,)``.

    A function of the two alone: a row gets the same tokens whatever else is in its batch, whenever
    it joined, and when it is continued after an interruption. SplitMix64 (Steele, Lea and Flood
    2014) with the seed's hash as its start and the position as its count.
    """
    bits = _mixed(_mixed(seed) + (position + 1) * _GOLDEN)
    # 48 bits, so that the product with a sum near 1 stays below that sum.
    return (bits >> 16).bitwise_and((1 << 48) - 1).double() * 2.0**-48


def _mixed(x: torch.Tensor) -> torch.Tensor:
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, 31)


def _shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    """To the right, filled with zeros: torch's own shift keeps the sign."""
    return (x >> by).bitwise_and((1 << (64 - by)) - 1)


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
