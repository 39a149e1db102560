"""Every key of verl's that our configurations set is read by verl: a dead one would only pretend.

verl's schema keeps keys that nothing reads (an old name, another backend's), and Hydra takes them
without a word. Here verl's sources are parsed: a key counts as read where its last name is taken
from something that is called a configuration or like the key's parent. Sources of backends that
this project does not choose are left out. A name that is stored and never used again is not found.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config.optimizer import build_optimizer

from ropd_verl.config import CONFIG_DIR, compose_config

ROOTS = ("actor_rollout_ref", "algorithm", "data", "reward", "trainer", "transfer_queue")
OTHER_BACKENDS = ("mcore", "megatron", "mindspeed", "torchtitan", "veomni", "automodel", "sglang")
READ_ELSEWHERE = {
    "actor_rollout_ref.actor.optim.override_optimizer_config.": "passed on to torch's optimizer",
    "actor_rollout_ref.model.override_config.attn_implementation": "passed on to transformers",
    "data.apply_chat_template_kwargs.enable_thinking": "passed on to the chat template",
    "data.max_response_length": "verl's rollout.yaml takes response_length from it",
    "trainer.v1.sampler.sampler_kwargs.": "passed on to ropd_verl.replay_buffer",
    "transfer_queue.": "passed on to TransferQueue",
}


def leaves(node: object, path: str = "") -> Iterator[str]:
    if not isinstance(node, dict) or not node:
        yield path
        return
    for key, value in node.items():
        yield from leaves(value, f"{path}.{key}".strip("."))


def configured_keys() -> list[str]:
    keys: set[str] = set()
    for file in CONFIG_DIR.rglob("*.yaml"):
        node = yaml.safe_load(file.read_text()) or {}
        keys |= set(leaves({root: node[root] for root in ROOTS if root in node}))
    return sorted(key for key in keys if key and not key.startswith(tuple(READ_ELSEWHERE)))


def last_name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(slice=ast.Constant(value=str(name))):
            return name
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(name)), *_]):
            return name
    return ""


def names_read(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(what it is taken from, name) of each attribute, item and ``get`` that is loaded."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=owner, attr=name, ctx=ast.Load()):
                yield last_name(owner), name
            case ast.Subscript(value=owner, slice=ast.Constant(value=str(name)), ctx=ast.Load()):
                yield last_name(owner), name
            case ast.Call(
                func=ast.Attribute(value=owner, attr="get" | "pop"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield last_name(owner), name
            case ast.Call(
                func=ast.Name(id="getattr"), args=[owner, ast.Constant(value=str(name)), *_]
            ):
                yield last_name(owner), name


@functools.cache
def read_by_verl(part: str) -> frozenset[tuple[str, str]]:
    """What verl reads: all of it for the part "rollout", else without the rollout's servers."""
    spec = find_spec("verl")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    found: set[tuple[str, str]] = set()
    for file in root.rglob("*.py"):
        inside = file.relative_to(root).as_posix()
        if any(other in inside for other in OTHER_BACKENDS):
            continue
        if part != "rollout" and inside.startswith(("workers/rollout/", "utils/vllm/")):
            continue
        found |= set(names_read(ast.parse(file.read_text())))
    return frozenset(found)


def is_read(key: str) -> bool:
    parent, _, name = key.rpartition(".")
    parent = parent.rpartition(".")[2]
    part = "rollout" if key.startswith("actor_rollout_ref.rollout.") else "rest"
    return any(
        read == name and ("config" in owner or "cfg" in owner or owner == parent)
        for owner, read in read_by_verl(part)
    )


@pytest.mark.parametrize("key", configured_keys())
def test_verl_reads_what_is_configured(key: str) -> None:
    assert is_read(key), f"nothing in verl reads {key}: set the key that counts, or drop it"


@pytest.mark.parametrize(
    "dead", ["actor_rollout_ref.actor.grad_clip", "actor_rollout_ref.actor.fsdp_config.dtype"]
)
def test_a_key_that_verl_only_declares_is_noticed(dead: str) -> None:
    assert not is_read(dead)


def test_one_gpu_steps_its_optimizer_tensor_by_tensor() -> None:
    """Else its copy of the weights does not fit beside them, gradients and Adam states."""
    config = compose_config("ropd", ["hardware=gpu1"]).actor_rollout_ref.actor.optim
    built = build_optimizer([torch.nn.Parameter(torch.ones(1))], omega_conf_to_dataclass(config))
    assert built.defaults["foreach"] is False
