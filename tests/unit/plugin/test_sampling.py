"""The distribution that tokens are drawn from."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ropd_verl.cpu.sampling import SamplingParams, draw, sampling_log_probs, top_log_probs

logits_rows = npst.arrays(
    "float32", st.tuples(st.integers(1, 4), st.integers(2, 12)), elements=st.floats(-8, 8, width=32)
).map(torch.from_numpy)


def params(**values):
    return SamplingParams(max_tokens=1, **values)


@given(logits_rows, st.floats(0.1, 3.0), st.floats(0.05, 1.0), st.integers(-1, 12))
def test_every_row_is_a_distribution(logits, temperature, top_p, top_k):
    asked = [params(temperature=temperature, top_p=top_p, top_k=top_k)] * len(logits)
    total = sampling_log_probs(logits, asked).exp().sum(dim=-1)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-5)


@given(logits_rows, st.integers(1, 12))
def test_top_k_keeps_the_k_likeliest(logits, k):
    kept = sampling_log_probs(logits, [params(top_k=k)] * len(logits)).isfinite().sum(dim=-1)
    assert kept.tolist() == [min(k, logits.shape[1])] * len(logits)


def test_top_p_keeps_the_smallest_sufficient_set():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    kept = sampling_log_probs(logits, [params(top_p=0.7)]).exp()[0]
    assert kept.tolist() == pytest.approx([0.625, 0.375, 0.0, 0.0])


def test_temperature_scales_the_scores():
    logits = torch.tensor([[0.0, 1.0]])
    expected = torch.tensor([[0.0, 2.0]]).log_softmax(-1)
    assert torch.allclose(sampling_log_probs(logits, [params(temperature=0.5)]), expected)


def test_greedy_row_is_a_point_mass_beside_a_sampled_row():
    logits = torch.tensor([[0.0, 1.0, 0.5], [0.0, 1.0, 0.5]])
    log_probs = sampling_log_probs(logits, [params(temperature=0.0), params()])
    assert log_probs[0].tolist() == [-math.inf, 0.0, -math.inf]
    assert torch.allclose(log_probs[1], logits[1].log_softmax(-1))


def test_draw_follows_the_distribution():
    log_probs = torch.log(torch.tensor([0.7, 0.2, 0.1])).expand(20_000, 3)
    tokens = draw(log_probs, [None] * len(log_probs), torch.Generator().manual_seed(0))
    shares = torch.bincount(tokens, minlength=3) / len(tokens)
    assert shares.tolist() == pytest.approx([0.7, 0.2, 0.1], abs=0.015)


def test_draw_never_takes_a_filtered_token():
    log_probs = torch.tensor([[0.0, -math.inf]]).expand(5_000, 2)
    tokens = draw(log_probs, [None] * len(log_probs), torch.Generator().manual_seed(0))
    assert not tokens.any()


def test_a_seeded_row_does_not_depend_on_its_batch():
    def drawn(rows, row):
        log_probs = torch.zeros(rows, 50).log_softmax(-1)
        generators = [None] * rows
        generators[row] = torch.Generator().manual_seed(7)
        return draw(log_probs, generators, torch.Generator().manual_seed(rows))[row].item()

    assert drawn(1, 0) == drawn(5, 3) == drawn(9, 8)


def test_prompt_log_probs_of_the_tokens_and_of_the_likeliest():
    logits = torch.log(torch.tensor([[0.1, 0.6, 0.3], [0.2, 0.3, 0.5]]))
    targets = torch.tensor([2, 0])
    ids, values = top_log_probs(logits, targets, 0)
    assert ids == [[2], [0], [0]]
    assert [v[0] for v in values] == pytest.approx([math.log(0.3), math.log(0.2), 0.0])
    ids, values = top_log_probs(logits, targets, 2)
    assert ids == [[1, 2], [2, 1], [0, 0]]
    assert values[1] == pytest.approx([math.log(0.5), math.log(0.3)])


def test_request_parameters_are_honoured_or_refused():
    read = SamplingParams.from_request(
        {"temperature": 0.3, "top_k": 5, "seed": 1, "logprobs": True, "repetition_penalty": 1.0},
        default_max_tokens=9,
    )
    assert read == SamplingParams(max_tokens=9, temperature=0.3, top_k=5, seed=1)
    assert SamplingParams.from_request({"max_new_tokens": 4}, default_max_tokens=9).max_tokens == 4
    with pytest.raises(ValueError, match="repetition_penalty"):
        SamplingParams.from_request({"repetition_penalty": 1.2}, default_max_tokens=9)
    with pytest.raises(ValueError, match="logit_bias"):
        SamplingParams.from_request({"logit_bias": {1: 2}}, default_max_tokens=9)


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        params(**bad)
