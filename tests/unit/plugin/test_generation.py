"""A batch that requests join and leave, held against each request alone and the model itself."""

import random

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ropd_verl.cpu import generation
from ropd_verl.cpu.cache import require_keys_and_values
from ropd_verl.cpu.generation import Completion, GenerationRequest, RunningBatch
from ropd_verl.cpu.sampling import SamplingParams

EOS = 3
VOCABULARY = 16
CONTEXT = 256


def qwen3():
    """Rotary positions; fewer keys than queries."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            initializer_range=0.5,
        )
    )


def gemma3():
    """Every other layer sees a sliding window, shorter than most of the sequences here."""
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            layer_types=["sliding_attention", "full_attention"],
            sliding_window=5,
            max_position_embeddings=CONTEXT,
            initializer_range=0.3,
        )
    )


def gpt2():
    """Learned positions."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=CONTEXT,
            initializer_range=0.3,
        )
    )


def bloom():
    """Positions as biases, made from the mask."""
    return BloomForCausalLM(
        BloomConfig(
            vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=2, initializer_range=0.5
        )
    )


@pytest.fixture(scope="module", params=[qwen3, gemma3, gpt2, bloom], ids=lambda make: make.__name__)
def any_model(request):
    torch.manual_seed(0)
    return request.param().eval()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return qwen3().eval()


def request(prompt, **values):
    return GenerationRequest(prompt, SamplingParams(**({"max_tokens": 12} | values)))


def batch_of(model, *, eos=frozenset({EOS})):
    return RunningBatch(model, eos_token_ids=eos, shared_rng=torch.Generator().manual_seed(0))


class Served:
    """Collects what a batch finishes, and sees that it finishes everything once."""

    def __init__(self, batch) -> None:
        self.batch = batch
        self.done: dict[GenerationRequest, Completion] = {}

    def take(self, finished):
        for one, completion in finished:
            assert one not in self.done
            self.done[one] = completion

    def join(self, requests):
        self.take(self.batch.join(requests))

    def step(self):
        self.take(self.batch.step())

    def rest(self):
        while len(self.batch):
            self.step()
        return self.done


def run(model, requests, **options) -> list[Completion]:
    served = Served(batch_of(model, **options))
    served.join(requests)
    done = served.rest()
    return [done[one] for one in requests]


def same(got: Completion, wanted: Completion) -> None:
    assert got.token_ids == wanted.token_ids
    assert got.reason == wanted.reason
    assert got.log_probs == pytest.approx(wanted.log_probs, abs=1e-4)


def drawn_request(rng: random.Random, pool: list[list[int]]) -> GenerationRequest:
    """Any prompt, often one that others have too, and any parameters."""
    if rng.random() < 0.5:
        prompt = rng.choice(pool)
    else:
        prompt = [rng.randrange(4, VOCABULARY) for _ in range(rng.randint(1, 30))]
    return request(
        prompt,
        max_tokens=rng.choice([1, 2, 5, 12, 40, 90]),
        temperature=rng.choice([0.0, 0.6, 1.0, 1.7]),
        top_p=rng.choice([1.0, 1.0, 0.8]),
        top_k=rng.choice([-1, -1, 1, 5]),
        seed=rng.randrange(1 << 62),
    )


@pytest.mark.parametrize("seed", range(6))
def test_whoever_joins_whenever_gets_what_it_gets_alone(any_model, seed):
    rng = random.Random(seed)
    pool = [[rng.randrange(4, VOCABULARY) for _ in range(rng.randint(1, 12))] for _ in range(3)]
    arriving = [drawn_request(rng, pool) for _ in range(24)]
    served = Served(batch_of(any_model))
    waiting = list(arriving)
    while waiting or len(served.batch):
        if waiting and rng.random() < 0.4:
            count = rng.randint(1, 6)
            served.join(waiting[:count])
            del waiting[:count]
        if len(served.batch):
            served.step()
    for one in arriving:
        same(served.done[one], run(any_model, [one])[0])


def test_log_probs_are_the_models_own_for_one_that_joined_midway(any_model):
    """Held against one forward without a cache, which is how the trainer computes them."""
    served = Served(batch_of(any_model, eos=frozenset()))
    served.join([request([4, 5, 6, 7, 8, 9], seed=1, max_tokens=30)])
    for _ in range(9):
        served.step()
    late = request([5, 6, 7], seed=2, max_tokens=25)
    served.join([late])
    completion = served.rest()[late]
    ids = torch.tensor([[5, 6, 7, *completion.token_ids]])
    with torch.no_grad():
        log_probs = any_model(ids).logits[0].log_softmax(-1)
    expected = [log_probs[2 + i, t].item() for i, t in enumerate(completion.token_ids)]
    assert len(expected) == 25
    assert completion.log_probs == pytest.approx(expected, abs=1e-4)


def test_greedy_is_what_transformers_generates(any_model):
    prompts = [[5, 6, 7], [9], [4, 8, 15, 1, 2, 6]]
    completions = run(any_model, [request(p, temperature=0.0, max_tokens=20) for p in prompts])
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = any_model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=20,
            eos_token_id=EOS,
            pad_token_id=0,
        )
        assert completion.token_ids == ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("tokens", [1, 2, 7, 39])
def test_an_interrupted_answer_is_continued_as_if_it_had_not_been(model, tokens):
    """At any token, and the rest under the same seed: random numbers follow the position."""
    asked = [request([5 + i], seed=i, max_tokens=40) for i in range(8)]
    whole = run(model, asked, eos=frozenset())
    served = Served(batch_of(model, eos=frozenset()))
    served.join(asked)
    for _ in range(tokens - 1):
        served.step()
    served.take(served.batch.abort())
    assert len(served.batch) == 0
    for one, complete in zip(asked, whole, strict=True):
        cut = served.done[one]
        assert cut.reason == "aborted"
        assert len(cut.token_ids) == tokens
        rest = request(
            [*one.prompt_ids, *cut.token_ids], seed=one.params.seed, max_tokens=40 - tokens
        )
        [continued] = run(model, [rest], eos=frozenset())
        assert [*cut.token_ids, *continued.token_ids] == complete.token_ids


def test_a_batch_goes_on_after_an_abort(model):
    served = Served(batch_of(model))
    served.join([request([5, 6], seed=1, max_tokens=40)])
    served.take(served.batch.abort())
    after = request([7, 8], seed=2, max_tokens=40)
    served.join([after])
    same(served.rest()[after], run(model, [after])[0])


def test_equal_prompts_are_read_once(model, monkeypatch):
    read: list[tuple[int, ...]] = []
    forward = model.forward

    def counting(*args, input_ids, **kwargs):
        read.append(tuple(input_ids.shape))
        return forward(*args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model, "forward", counting)
    batch = batch_of(model)
    batch.join([request([5, 6, 7], seed=i) for i in range(8)])
    batch.join([request([p, 6, 7], seed=i) for i in range(8) for p in (5, 9)])
    assert read == [(1, 3), (2, 3)]


def test_long_prompts_are_read_in_several_forwards(model, monkeypatch):
    monkeypatch.setattr(generation, "_PREFILL_TOKENS", 12)
    rng = random.Random(0)
    asked = [drawn_request(rng, [[5, 6, 7]]) for _ in range(20)]
    for together, one in zip(run(model, asked), asked, strict=True):
        same(together, run(model, [one])[0])


def test_completions_end_at_eos_or_at_their_limit(model):
    rng = random.Random(1)
    asked = [drawn_request(rng, [[5, 6, 7]]) for _ in range(60)]
    ended = set()
    for completion, one in zip(run(model, asked), asked, strict=True):
        assert EOS not in completion.token_ids[:-1]
        assert len(completion.log_probs) == len(completion.token_ids)
        if completion.reason == "stop":
            assert completion.token_ids[-1] == EOS
        else:
            assert completion.reason == "length"
            assert len(completion.token_ids) == one.params.max_tokens
        ended.add(completion.reason)
    assert ended == {"stop", "length"}


def test_requests_without_a_seed_differ(model):
    asked = [request([5, 6], max_tokens=30, temperature=1.5) for _ in range(4)]
    answers = {tuple(c.token_ids) for c in run(model, asked, eos=frozenset())}
    assert len(answers) == 4


def test_prompt_log_probs_in_a_mixed_batch(model):
    sequence = [5, 6, 7, 9, 2]
    scored, plain, ranked = run(
        model,
        [
            request(sequence, prompt_logprobs=0, max_tokens=1),
            request([1] * 9, seed=3),
            request(sequence, prompt_logprobs=2, max_tokens=5),
        ],
    )
    assert plain.prompt_ids is None
    with torch.no_grad():
        log_probs = model(torch.tensor([sequence])).logits[0].log_softmax(-1)
    expected = [log_probs[i, t].item() for i, t in enumerate(sequence[1:])] + [0.0]
    assert scored.prompt_ids == [[6], [7], [9], [2], [0]]
    assert [v[0] for v in scored.prompt_log_probs or []] == pytest.approx(expected, abs=1e-4)
    top = log_probs.topk(2).indices[:-1].tolist()
    assert ranked.prompt_ids == [*top, [0, 0]]


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="without tokens"):
        request([])


def test_a_model_that_keeps_another_state_is_refused(any_model):
    require_keys_and_values(any_model)
    other = MambaForCausalLM(MambaConfig(vocab_size=16, hidden_size=32, num_hidden_layers=1))
    with pytest.raises(ValueError, match=r"keep keys and values only.*rollout\.name=vllm"):
        require_keys_and_values(other)
