"""What a training step of the CPU example cannot do without, in one process without a framework.

    python -m benchmarks.step_floor WORKDIR REPETITIONS     # one line of JSON: seconds by part

`benchmarks.step` calls it and says what the parts are. Every repetition starts from the same
weights and takes the next batch of prompts; rewards are random, since they cost nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pyarrow.parquet as pq
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from benchmarks.lean_decoder import LeanDecoder
from ropd_verl.config import compose_config

Result = TypeVar("Result")


class Floor:
    """The student in ``workdir`` and its prompts, as ropd_cpu would train them."""

    def __init__(self, workdir: Path) -> None:
        config = compose_config("ropd_cpu", [])
        actor, self._n = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout.n
        torch.set_num_threads(os.cpu_count() or 1)  # as `ropd_verl.train` gives one rank
        self._tokenizer = AutoTokenizer.from_pretrained(workdir / "student")
        self._model = Qwen3ForCausalLM.from_pretrained(workdir / "student", dtype=torch.float32)
        self._start = {name: value.clone() for name, value in self._model.state_dict().items()}
        self._max_tokens: int = config.data.max_response_length
        self._micro_batch_tokens: int = actor.ppo_max_token_len_per_gpu
        self._clip: float = actor.optim.clip_grad
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(),
            lr=actor.optim.lr,
            betas=tuple(actor.optim.betas),
            weight_decay=actor.optim.weight_decay,
        )
        prompts = pq.read_table(workdir / "train.parquet")["prompt"].to_pylist()
        self._batches = self._cycled(prompts, config.data.train_batch_size)

    def _cycled(self, prompts: list, size: int) -> Iterator[list[list[int]]]:
        """Token ids of a batch's prompts, each n times, without end."""
        while True:
            for first in range(0, len(prompts) - size + 1, size):
                yield [
                    self._tokenizer.apply_chat_template(
                        messages, add_generation_prompt=True, return_dict=False
                    )
                    for messages in prompts[first : first + size]
                    for _ in range(self._n)
                ]

    def measure(self) -> dict[str, float]:
        """Seconds of each part of one step."""
        self._model.load_state_dict(self._start)
        prompts = next(self._batches)
        parts: dict[str, float] = {}
        answers = _timed(parts, "generate", lambda: self._generate(prompts))
        micro_batches = self._packed(prompts, answers)
        old = _timed(parts, "log_probs", lambda: self._old_log_probs(micro_batches))
        _timed(parts, "update", lambda: self._update(micro_batches, old))
        return parts

    def _generate(self, prompts: list[list[int]]) -> list[list[int]]:
        decoder = LeanDecoder(self._model)
        return decoder.generate(prompts, self._max_tokens, self._tokenizer.eos_token_id)

    def _packed(
        self, prompts: list[list[int]], answers: list[list[int]]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Token ids and a mask of the answers, padded on the right, by micro-batch."""
        sequences = [[*p, *a] for p, a in zip(prompts, answers, strict=True)]
        rows = max(1, self._micro_batch_tokens // max(map(len, sequences)))
        found = []
        for first in range(0, len(sequences), rows):
            part = sequences[first : first + rows]
            ids = torch.zeros(len(part), max(map(len, part)), dtype=torch.long)
            mask = torch.zeros(ids.shape)
            for row, sequence in enumerate(part):
                ids[row, : len(sequence)] = torch.tensor(sequence)
                mask[row, len(prompts[first + row]) : len(sequence)] = 1.0
            found.append((ids, mask[:, 1:]))
        return found

    def _log_probs(self, ids: torch.Tensor) -> torch.Tensor:
        # Padding stands on the right, where causal attention never looks: no mask is needed.
        logits = self._model(input_ids=ids).logits[:, :-1]
        return logits.log_softmax(dim=-1).gather(-1, ids[:, 1:, None])[..., 0]

    @torch.no_grad()
    def _old_log_probs(self, micro_batches: list) -> list[torch.Tensor]:
        return [self._log_probs(ids) for ids, _ in micro_batches]

    def _update(self, micro_batches: list, old: list[torch.Tensor]) -> None:
        total = sum(len(ids) for ids, _ in micro_batches)
        self._optimizer.zero_grad()
        for (ids, mask), before in zip(micro_batches, old, strict=True):
            ratio = (self._log_probs(ids) - before).exp()
            advantages = torch.randn(len(ids), 1)
            loss = -(ratio * advantages * mask).sum(dim=1) / mask.sum(dim=1)
            (loss.sum() / total).backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()


def _timed(parts: dict[str, float], part: str, run: Callable[[], Result]) -> Result:
    started = time.perf_counter()
    result = run()
    parts[part] = time.perf_counter() - started
    return result


def main() -> None:
    floor = Floor(Path(sys.argv[1]))
    floor.measure()  # the first allocates
    print(json.dumps([floor.measure() for _ in range(int(sys.argv[2]))]))


if __name__ == "__main__":
    main()
