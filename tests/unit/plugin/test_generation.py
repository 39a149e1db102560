"""Batched generation against the same model run one request at a time."""

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from ropd_verl.cpu.generation import Completion, GenerationRequest, generate
from ropd_verl.cpu.sampling import SamplingParams

EOS = 3


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.5,
    )
    return Qwen3ForCausalLM(config).eval()


def run(model, requests, **options) -> list[Completion]:
    done: dict[int, Completion] = {}

    def finished(index, completion):
        assert index not in done
        done[index] = completion

    generate(
        model,
        requests,
        eos_token_ids=frozenset({EOS}),
        shared_rng=torch.Generator().manual_seed(0),
        on_finished=finished,
        **options,
    )
    return [done[i] for i in range(len(requests))]


def request(prompt, **values):
    return GenerationRequest(prompt, SamplingParams(**({"max_tokens": 12} | values)))


REQUESTS = [
    request([5, 6, 7], temperature=0.0),
    request([9], temperature=0.0, max_tokens=3),
    request([4, 8, 15, 1, 2, 6], seed=11),
    request([10, 11], seed=12, temperature=0.7, top_p=0.9),
    request([10, 11], seed=13, top_k=3, max_tokens=20),
]


def test_a_batch_gives_each_request_what_it_gets_alone(model):
    together = run(model, REQUESTS)
    alone = [run(model, [r])[0] for r in REQUESTS]
    for batched, single in zip(together, alone, strict=True):
        assert batched.token_ids == single.token_ids
        assert batched.log_probs == pytest.approx(single.log_probs, abs=1e-4)


def test_log_probs_are_the_models_own(model):
    [completion] = run(model, [request([5, 6, 7], seed=1)])
    ids = torch.tensor([[5, 6, 7, *completion.token_ids]])
    with torch.no_grad():
        log_probs = model(ids).logits[0].log_softmax(-1)
    expected = [log_probs[2 + i, t].item() for i, t in enumerate(completion.token_ids)]
    assert completion.log_probs == pytest.approx(expected, abs=1e-4)


def test_completions_end_at_eos_or_at_their_limit(model):
    ended = set()
    for completion, asked in zip(run(model, REQUESTS), REQUESTS, strict=True):
        assert EOS not in completion.token_ids[:-1]
        if completion.reason == "stop":
            assert completion.token_ids[-1] == EOS
        else:
            assert completion.reason == "length"
            assert len(completion.token_ids) == asked.params.max_tokens
        ended.add(completion.reason)
    assert "length" in ended


def test_a_stop_signal_returns_what_there_is(model):
    looks = iter([False, False, True])
    requests = [request([5], seed=seed, max_tokens=40) for seed in range(8)]
    completions = run(model, requests, should_stop=lambda: next(looks))
    for completion in completions:
        if completion.reason == "aborted":
            assert len(completion.token_ids) == 3
    assert any(c.reason == "aborted" for c in completions)


def test_prompt_log_probs_in_a_mixed_batch(model):
    sequence = [5, 6, 7, 9, 2]
    scored, plain = run(
        model, [request(sequence, prompt_logprobs=0, max_tokens=1), request([1] * 9, seed=3)]
    )
    assert plain.prompt_ids is None
    with torch.no_grad():
        log_probs = model(torch.tensor([sequence])).logits[0].log_softmax(-1)
    expected = [log_probs[i, t].item() for i, t in enumerate(sequence[1:])] + [0.0]
    assert scored.prompt_ids == [[6], [7], [9], [2], [0]]
    assert [v[0] for v in scored.prompt_log_probs or []] == pytest.approx(expected, abs=1e-4)


def test_an_empty_prompt_is_refused(model):
    with pytest.raises(ValueError, match="without tokens"):
        run(model, [request([])])
