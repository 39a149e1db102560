"""The model card of an exported student, written from what the run recorded. Pure text.

States figures of the run and nothing else; a path that names this machine is cut to its last part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any


@dataclass(frozen=True)
class CardFacts:
    """What the card is written from; None where the run has no such record."""

    run: str
    """Experiment and number, such as ropd/001."""
    method: str
    """`ropd.method.name`."""
    about: str
    """What the student learned from, in a sentence."""
    step: int
    config: Mapping[str, Any]
    """The run's configuration, resolved."""
    roles: Mapping[str, Mapping[str, Any]] | None
    """The judge's roles as the journal recorded them; empty for a method that asks none."""
    teachers_used: bool
    """Whether the method shows teacher answers at all."""
    teachers: Sequence[Mapping[str, Any]] | None
    """The teachers that the index names."""
    provenance: Mapping[str, Any] | None
    figures: Mapping[str, float | int | None]
    """From the run's metrics: name and value."""
    versions: Mapping[str, str]


TRAINING = (
    ("method", "ropd.method.name"),
    ("prompts a step", "data.train_batch_size"),
    ("rollouts a prompt (n)", "actor_rollout_ref.rollout.n"),
    ("teacher answers (m)", "ropd.teacher_answers"),
    ("rubric", "ropd.rubric.mode"),
    ("criteria's weights", "ropd.rubric.weights"),
    ("verification", "ropd.verification.mode"),
    ("training mode", "trainer.v1.trainer_mode"),
    ("planned steps", "trainer.total_training_steps"),
    ("learning rate", "actor_rollout_ref.actor.optim.lr"),
    ("schedule", "actor_rollout_ref.actor.optim.lr_scheduler_type"),
    ("weight decay", "actor_rollout_ref.actor.optim.weight_decay"),
    ("prompts a mini-batch", "actor_rollout_ref.actor.ppo_mini_batch_size"),
    ("advantages divided by std", "algorithm.norm_adv_by_std_in_grpo"),
    ("loss aggregation", "actor_rollout_ref.actor.loss_agg_mode"),
    ("LoRA rank (0: all weights)", "actor_rollout_ref.model.lora_rank"),
    ("longest prompt, tokens", "data.max_prompt_length"),
    ("longest response, tokens", "data.max_response_length"),
    ("chat template arguments", "data.apply_chat_template_kwargs"),
    ("seed", "seed"),
)


def model_card(facts: CardFacts) -> str:
    """The card in Markdown, with the hub's front matter."""
    base = public_name(str(_select(facts.config, "actor_rollout_ref.model.path")))
    sections = [
        _front_matter(base, distilled=facts.roles != {}),
        f"# {base}, trained by {facts.method}\n\nStep {facts.step} of run {facts.run}. "
        f"{facts.about} {_weights(facts.config)}",
        _table("Training", list(_training(facts)), "setting"),
        _teachers(facts),
        _judge(facts.roles),
        _table("Figures of the run", list(facts.figures.items()), "figure")
        if facts.figures
        else "## Figures of the run\n\nThe run recorded none.",
        "Rewards are what the run's own method and judge gave: they say little about another run. "
        "Accuracies are those of the run's own validation set.",
        _table("Versions", list(facts.versions.items()), "package"),
    ]
    return "\n\n".join(sections) + "\n"


def _training(facts: CardFacts) -> Iterator[tuple[str, Any]]:
    """The settings that the method reads."""
    of_ropd = ("ropd.rubric.", "ropd.verification.")
    for name, key in TRAINING:
        value = _select(facts.config, key)
        if facts.method != "ropd" and key.startswith(of_ropd):
            continue
        if key == "ropd.teacher_answers" and not facts.teachers_used:
            continue
        yield name, facts.method if key == "ropd.method.name" else value


def _weights(config: Mapping[str, Any]) -> str:
    rank, alpha = (_select(config, f"actor_rollout_ref.model.lora_{k}") for k in ("rank", "alpha"))
    merged = f" The LoRA adapter (rank {rank}, alpha {alpha}) is merged into them." if rank else ""
    return f"Weights are in bfloat16.{merged}"


def public_name(path: str) -> str:
    """A hub name as it is; of a folder, its last part."""
    local = path.startswith(("/", "~", ".")) or path.count("/") > 1
    return PurePath(path).name if local else path


def _front_matter(base: str, distilled: bool) -> str:
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    if "/" in base:
        lines.append(f"base_model: {base}")
    tags = ["- ropd", "- on-policy-distillation"] if distilled else ["- ropd"]
    return "\n".join([*lines, "tags:", *tags, "---"])


def _teachers(facts: CardFacts) -> str:
    if not facts.teachers_used:
        return "## Teacher\n\nNo teacher answer was used."
    if facts.teachers is None:
        return "## Teacher\n\nThe teacher index was not found at the time of the export."
    rows = [(str(t["model"]), {k: v for k, v in t.items() if k != "model"}) for t in facts.teachers]
    text = _table("Teacher", rows, "model")
    # An endpoint's address is no business of the card's readers.
    made_from = {k: v for k, v in (facts.provenance or {}).items() if k != "base_url"}
    return f"{text}\n\nIndex: {_shown(made_from)}" if made_from else text


def _judge(roles: Mapping[str, Mapping[str, Any]] | None) -> str:
    if roles is None:
        return "## Judge\n\nThe run's journal holds no judgement."
    if not roles:
        return "## Judge\n\nNo judge was asked."
    kept = ("model", "temperature", "top_p", "reasoning_effort", "max_tokens")
    rows = [(role, {k: used.get(k) for k in kept}) for role, used in roles.items()]
    return _table("Judge", rows, "role")


def _table(title: str, rows: Sequence[tuple[str, Any]], first: str) -> str:
    lines = [f"## {title}", "", f"| {first} | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {_shown(value)} |" for name, value in rows)])


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items() if v is not None) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return public_name(value) if value.startswith(("/", "~")) else value.replace("|", "\\|")
    if isinstance(value, Sequence):
        return ", ".join(map(_shown, value))
    return json.dumps(value)


def _select(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
