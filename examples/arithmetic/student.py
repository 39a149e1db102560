"""The tiny student: a character-level Qwen3 with a warm start on a flawed way to add.

The warm start imitates a solver that forgets each carry with probability `FORGOTTEN_CARRY`. The
flaw acts per step: greedy decoding is nearly always wrong, a whole answer sampled at temperature
1.0 is right in one case of six or so, and a single step much more often. So a reward that grades
steps has something to tell that a right/wrong reward has not.

This module does not draw the problem sets (`problems`) and knows nothing of rewards or of verl.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from examples.arithmetic.problems import (
    DigitColumn,
    Problem,
    digit_pairs,
    draw_problem_sets,
    is_correct,
    problems_outside,
)
from examples.arithmetic.solutions import canonical

# High enough that most sums are wrong at the start, low enough that a group of 8 mostly holds a
# right one: what is never sampled cannot be reinforced.
FORGOTTEN_CARRY = 0.7
# Room for the longest solution and its end token; a test compares.
MAX_RESPONSE_TOKENS = 60
REPORT_FILE = "warm_start.json"

_PAD, _UNKNOWN, _START, _END = "<pad>", "<unk>", "<|im_start|>", "<|im_end|>"
_CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n"]
_VOCABULARY = {t: i for i, t in enumerate([_PAD, _UNKNOWN, _START, _END, *_CHARACTERS])}
# torch's cross entropy leaves it out.
_IGNORED_LABEL = -100
# Roles are cut to their first letter: a prompt is a third of what the tiny model reads.
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'][0] }}\n"
    "{{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>a\n{% endif %}"
)


@dataclass(frozen=True)
class WarmStart:
    """How the student is made. `threads` is the number of CPU threads torch may use."""

    seed: int = 0
    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 3e-3
    hidden_size: int = 128
    layers: int = 4
    threads: int = 2


@dataclass(frozen=True)
class WarmStartReport:
    """What was made: accuracies on held-out problems, wall seconds of training and of all."""

    seconds: float
    training_seconds: float
    steps: int
    parameters: int
    final_loss: float
    sampled_accuracy: float
    greedy_accuracy: float
    problems: int


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character of printable ASCII and newline, with a chat template."""
    tokenizer = Tokenizer(models.WordLevel(_VOCABULARY, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=_UNKNOWN,
        pad_token=_PAD,
        bos_token=_START,
        eos_token=_END,
        padding_side="left",
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_model(recipe: WarmStart) -> Qwen3ForCausalLM:
    """A freshly initialised Qwen3 of `recipe`'s size; the weights follow torch's global seed."""
    head_dim = 32
    heads = recipe.hidden_size // head_dim
    config = Qwen3Config(
        vocab_size=len(_VOCABULARY),
        hidden_size=recipe.hidden_size,
        intermediate_size=3 * recipe.hidden_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim,
        max_position_embeddings=512,
        pad_token_id=_VOCABULARY[_PAD],
        bos_token_id=_VOCABULARY[_START],
        eos_token_id=_VOCABULARY[_END],
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config)


def flawed_solution(problem: Problem, rng: random.Random) -> str:
    """A solution whose solver forgets each carry with probability `FORGOTTEN_CARRY`."""
    steps: list[DigitColumn] = []
    carry = 0
    for upper, lower in digit_pairs(problem):
        steps.append(DigitColumn(upper, lower, carry))
        carry = steps[-1].carry_out if rng.random() >= FORGOTTEN_CARRY else 0
    digits = [str(step.total % 10) for step in steps] + (["1"] if carry else [])
    return canonical(steps, "".join(reversed(digits)))


def render_prompt(tokenizer: PreTrainedTokenizerFast, problem: Problem) -> str:
    rendered = tokenizer.apply_chat_template(
        problem.messages, add_generation_prompt=True, tokenize=False
    )
    assert isinstance(rendered, str)
    return rendered


@torch.inference_mode()
def answers_of(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    temperature: float,
) -> list[str]:
    """One answer a problem; temperature 0 is greedy, else the full distribution is sampled."""
    prompts = [render_prompt(tokenizer, problem) for problem in problems]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    sampled = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    sequences = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=MAX_RESPONSE_TOKENS,
        **(sampled if temperature > 0 else {"do_sample": False}),
    )
    completions = sequences[:, batch["input_ids"].shape[1] :]
    return tokenizer.batch_decode(completions, skip_special_tokens=True)


def warm_start(
    recipe: WarmStart, held_out: Collection[Problem], directory: Path
) -> WarmStartReport:
    """Train a student on flawed solutions and save it, its tokenizer and its report.

    No held-out sum is trained on, in either order of its operands. Deterministic for a recipe on
    one machine and torch version. `directory` is created if needed.
    """
    started = time.monotonic()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer()
    model = build_model(recipe)
    excluded = frozenset(problem.unordered for problem in held_out)
    loss = _train(model, tokenizer, recipe, excluded)
    trained = time.monotonic()
    model.eval()
    problems = list(held_out)
    sampled = answers_of(model, tokenizer, problems, temperature=1.0)
    greedy = answers_of(model, tokenizer, problems, temperature=0.0)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    report = WarmStartReport(
        seconds=round(time.monotonic() - started, 1),
        training_seconds=round(trained - started, 1),
        steps=recipe.steps,
        parameters=sum(p.numel() for p in model.parameters()),
        final_loss=loss,
        sampled_accuracy=_accuracy(sampled, problems),
        greedy_accuracy=_accuracy(greedy, problems),
        problems=len(problems),
    )
    (directory / REPORT_FILE).write_text(json.dumps(asdict(report), indent=1) + "\n")
    return report


def _train(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: WarmStart,
    excluded: frozenset[tuple[int, int]],
) -> float:
    """Imitate flawed solutions for `recipe.steps` batches; the last batch's loss in nats."""
    rng = random.Random(f"warm start {recipe.seed}")
    problems = problems_outside(rng, excluded)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=0.01, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe.steps))
    model.train()
    loss = torch.zeros(())
    for _ in range(recipe.steps):
        input_ids, labels = _batch(tokenizer, problems, recipe.batch_size, rng)
        # Padding stands on the right, where causal attention never looks: no mask is needed.
        loss = model(input_ids=input_ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return float(loss.detach())


def _rate(step: int, steps: int) -> float:
    """Linear warm-up over 50 steps, then linear decay to a tenth."""
    return min(1.0, (step + 1) / 50) * (1.0 - 0.9 * step / max(1, steps))


def _batch(
    tokenizer: PreTrainedTokenizerFast,
    problems: Iterator[Problem],
    size: int,
    rng: random.Random,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, each [size, longest], right-padded; only answers are labelled."""
    prompts: list[list[int]] = []
    answers: list[list[int]] = []
    for problem in islice(problems, size):
        prompts.append(_ids(tokenizer, render_prompt(tokenizer, problem)))
        answers.append(_ids(tokenizer, flawed_solution(problem, rng) + _END))
    longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    input_ids = torch.full((size, longest), _VOCABULARY[_PAD])
    labels = torch.full_like(input_ids, _IGNORED_LABEL)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        input_ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return input_ids, labels


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _accuracy(answers: Sequence[str], problems: Sequence[Problem]) -> float:
    right = sum(is_correct(a, p) for a, p in zip(answers, problems, strict=True))
    return right / len(problems)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.arithmetic.student",
        description="Make the tiny student and save it with its tokenizer and its report.",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--seed", type=int, default=WarmStart.seed)
    parser.add_argument("--steps", type=int, default=WarmStart.steps)
    parser.add_argument("--held-out", type=int, default=256, help="problems kept from training")
    chosen = parser.parse_args(arguments)
    held_out = draw_problem_sets(chosen.seed, train=0, held_out=chosen.held_out).held_out
    report = warm_start(WarmStart(seed=chosen.seed, steps=chosen.steps), held_out, chosen.out)
    print(json.dumps(asdict(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
