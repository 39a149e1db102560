"""The distribution that tokens are drawn from."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ropd_verl.cpu.sampling import (
    RowSampling,
    SamplingParams,
    draw,
    sampling_log_probs,
    top_log_probs,
    uniforms,
)

logits_rows = npst.arrays(
    "float32", st.tuples(st.integers(1, 4), st.integers(2, 12)), elements=st.floats(-8, 8, width=32)
).map(torch.from_numpy)


def params(**values):
    return SamplingParams(max_tokens=1, **values)


def rows(*asked):
    return RowSampling.of(asked, torch.Generator().manual_seed(0))


@given(logits_rows, st.floats(0.1, 3.0), st.floats(0.05, 1.0), st.integers(-1, 12))
def test_every_row_is_a_distribution(logits, temperature, top_p, top_k):
    asked = [params(temperature=temperature, top_p=top_p, top_k=top_k)] * len(logits)
    total = sampling_log_probs(logits, rows(*asked)).exp().sum(dim=-1)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-5)


@given(logits_rows, st.integers(1, 12))
def test_top_k_keeps_the_k_likeliest(logits, k):
    kept = sampling_log_probs(logits, rows(*[params(top_k=k)] * len(logits))).isfinite().sum(dim=-1)
    assert kept.tolist() == [min(k, logits.shape[1])] * len(logits)


def test_top_p_keeps_the_smallest_sufficient_set():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    kept = sampling_log_probs(logits, rows(params(top_p=0.7))).exp()[0]
    assert kept.tolist() == pytest.approx([0.625, 0.375, 0.0, 0.0])


def test_temperature_scales_the_scores():
    logits = torch.tensor([[0.0, 1.0]])
    expected = torch.tensor([[0.0, 2.0]]).log_softmax(-1)
    assert torch.allclose(sampling_log_probs(logits, rows(params(temperature=0.5))), expected)


def test_greedy_row_is_a_point_mass_beside_a_sampled_row():
    logits = torch.tensor([[0.0, 1.0, 0.5], [0.0, 1.0, 0.5]])
    log_probs = sampling_log_probs(logits, rows(params(temperature=0.0), params()))
    assert log_probs[0].tolist() == [-math.inf, 0.0, -math.inf]
    assert torch.allclose(log_probs[1], logits[1].log_softmax(-1))


@given(logits_rows, st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 2), min_size=4))
def test_a_rows_distribution_does_not_depend_on_the_others(logits, values):
    asked = [params(temperature=t, top_p=max(p, 0.1)) for t, p in values][: len(logits)]
    logits = logits[: len(asked)]
    together = sampling_log_probs(logits, rows(*asked))
    for row, one in enumerate(asked):
        alone = sampling_log_probs(logits[row : row + 1], rows(one))[0]
        assert torch.allclose(together[row], alone, atol=1e-6)


def test_a_row_without_a_filter_keeps_its_rarest_token_beside_one_that_has_a_filter():
    """The sum of the others is rounded to 1.0, which is no reason to leave it out."""
    logits = torch.tensor([[-15.0, 2.0, 2.0, 2.0]] * 2)
    log_probs = sampling_log_probs(logits, rows(params(), params(top_p=0.5)))
    assert log_probs[0].isfinite().all()
    assert not log_probs[1].isfinite().all()


def test_rows_are_joined_and_picked_like_lists():
    first, second = [params(seed=1), params(seed=2, top_k=5)], [params(seed=3, temperature=0.2)]
    picked = rows(*first).followed_by(rows(*second)).rows(torch.tensor([2, 0]))
    assert picked.seed.tolist() == [3, 1]
    assert picked.top_k.tolist() == [-1, -1]
    assert picked.temperature.tolist() == pytest.approx([0.2, 1.0])


def test_any_integer_is_a_seed():
    seeds = rows(*[params(seed=s) for s in (0, -1, (1 << 63) - 1, 1 << 80)]).seed
    assert (seeds >= 0).all()


def test_draw_follows_the_distribution():
    log_probs = torch.log(torch.tensor([0.7, 0.2, 0.1])).expand(20_000, 3)
    tokens = draw(log_probs, uniforms(torch.arange(20_000), torch.tensor(5)))
    shares = torch.bincount(tokens, minlength=3) / len(tokens)
    assert shares.tolist() == pytest.approx([0.7, 0.2, 0.1], abs=0.015)


@given(logits_rows, st.sampled_from([0.0, 1e-12, 0.5, 1 - 2.0**-48]))
def test_draw_never_takes_a_filtered_token(logits, uniform):
    log_probs = sampling_log_probs(logits, rows(*[params(top_k=2)] * len(logits)))
    tokens = draw(log_probs, torch.full((len(logits),), uniform, dtype=torch.float64))
    assert log_probs.gather(1, tokens[:, None]).isfinite().all()


def test_random_numbers_are_spread_and_not_related():
    """Neighbouring seeds and positions, as rollouts of a run have them."""
    seeds, positions = torch.arange(200)[:, None], torch.arange(200)[None, :]
    drawn = uniforms(seeds, positions)
    assert ((drawn >= 0) & (drawn < 1)).all()
    counts = torch.histc(drawn.float(), bins=20, min=0, max=1)
    assert (counts / drawn.numel()).tolist() == pytest.approx([0.05] * 20, abs=0.005)
    for one, other in ((drawn[1:], drawn[:-1]), (drawn[:, 1:], drawn[:, :-1])):
        pair = torch.stack([one.flatten(), other.flatten()])
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 0.02


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
