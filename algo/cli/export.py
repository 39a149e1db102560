"""`ropd export`: a run's checkpoint as a Hugging Face model directory with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

# Merging reads and writes each weight once: a 70 B model from a slow disk takes half of it.
_MERGE_TIMEOUT_S = 3600


def export(
    run: Annotated[Path, typer.Argument(help="A run's directory, such as runs/ropd/001.")],
    out: Annotated[Path, typer.Option(help="The new model directory.")],
    step: Annotated[
        int | None, typer.Option(min=1, help="Of the checkpoint; the newest by default.")
    ] = None,
) -> None:
    """Merge a checkpoint's shards and adapter; write a card from what the run recorded."""
    import shutil

    from omegaconf import OmegaConf

    from algo.errors import ConfigurationError
    from algo.runs.configuration import recorded_config
    from algo.runs.model_card import model_card

    chosen = newest_step(run) if step is None else step
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigurationError(f"--out {out} is not empty: name a new directory")
    config: Any = OmegaConf.to_container(recorded_config(run), resolve=True)
    # What stands under --out is whole: without its adapter a model would look like a trained one.
    part = out.absolute().with_name(f".{out.absolute().name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _merge(run / "checkpoints" / f"global_step_{chosen}" / "actor", part, config)
        card = model_card(_facts(run, chosen, config))
        (part / "README.md").write_text(card, encoding="utf-8")
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    typer.echo(f"step {chosen} of {run} is in {out}")


def newest_step(run: Path) -> int:
    """The step of the run's newest checkpoint; raises `ConfigurationError` without one."""
    from algo.errors import ConfigurationError

    marker = run / "checkpoints" / "latest_checkpointed_iteration.txt"
    if not marker.is_file():
        raise ConfigurationError(f"{run} holds no checkpoint: name a run's directory, or --step")
    return int(marker.read_text())


def _merge(shards: Path, out: Path, config: Mapping[str, Any]) -> None:
    import subprocess
    import sys

    from algo.errors import ConfigurationError
    from ropd_verl.adapter import FOLDER, merge_adapter, require_peft
    from ropd_verl.installation import require_verl

    require_verl("ropd export merges a checkpoint with verl")
    if not (shards / "fsdp_config.json").is_file():
        raise ConfigurationError(
            f"{shards} is not a checkpoint of an FSDP run: choose another --step"
        )
    actor, model = (config["actor_rollout_ref"].get(key, {}) for key in ("actor", "model"))
    if adapted := model.get("lora_rank", 0) > 0:
        require_peft()
        if actor.get("checkpoint", {}).get("save_lora_only"):
            raise ConfigurationError(
                f"{shards} holds the adapter alone (actor_rollout_ref.actor.checkpoint."
                f"save_lora_only): merge it into {model['path']} by peft yourself"
            )
    merger = [sys.executable, "-P", "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
    done = subprocess.run(
        [*merger, "--local_dir", str(shards), "--target_dir", str(out)],
        capture_output=True,
        text=True,
        timeout=_MERGE_TIMEOUT_S,
        check=False,
    )
    if done.returncode or not list(out.glob("*.safetensors")):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ConfigurationError(f"verl's merger cannot read {shards}: {last}")
    if adapted != (out / FOLDER).is_dir():
        raise ConfigurationError(
            f"{shards} holds {'no' if adapted else 'an'} adapter and the run's configuration says "
            f"actor_rollout_ref.model.lora_rank={model.get('lora_rank', 0)}: it is of another run"
        )
    if adapted:
        merge_adapter(out, model)


def _facts(run: Path, step: int, config: Mapping[str, Any]) -> Any:
    from importlib.metadata import version

    from algo.methods.registry import is_judged, load_settings, method_of
    from algo.runs.model_card import CardFacts

    settings = load_settings(config["ropd"])
    method = method_of(settings)
    used = method.needs_teachers(settings)
    teachers, provenance = _index(config["ropd"]["teacher_index"] if used else None)
    return CardFacts(
        run="/".join(run.resolve().parts[-2:]),
        method=method.name,
        about=method.about,
        step=step,
        config=config,
        roles=_roles(run / "journal") if is_judged(settings) else {},
        teachers_used=used,
        teachers=teachers,
        provenance=provenance,
        figures=_figures(run, step),
        versions={name: version(name) for name in ("verl", "torch", "transformers")},
    )


def _index(path: str | None) -> tuple[list[Mapping[str, Any]] | None, Mapping[str, Any] | None]:
    from dataclasses import asdict

    from algo.errors import TeacherIndexError
    from algo.paths import absolute
    from algo.teacher.teacher_index import TeacherIndex

    if path is None:
        return None, None
    try:
        with TeacherIndex.open(absolute(path)) as index:
            return [asdict(t) for t in index.header.teachers], dict(index.header.provenance)
    except TeacherIndexError:
        return None, None


def _roles(journal: Path) -> Mapping[str, Mapping[str, Any]] | None:
    import orjson

    for file in sorted(journal.glob("*.jsonl")):
        with file.open("rb") as lines:
            first = lines.readline()
        if first.endswith(b"\n"):
            return orjson.loads(first)["roles"]
    return None


def _figures(run: Path, step: int) -> dict[str, float | int | None]:
    from algo.runs.summary import accuracies, read_metrics, rewards

    steps = read_metrics(sorted((run / "metrics").glob("*.jsonl")))
    until = {number: data for number, data in steps.items() if number <= step}
    figures: dict[str, float | int | None] = {}
    for label, greedy in (("validation accuracy, sampled", False), ("greedy", True)):
        found = accuracies(until, greedy=greedy)
        figures |= {f"{label}, step {n}": v for n, v in found.items() if n in (0, max(found))}
    if rewarded := list(rewards(until).values()):
        figures["mean reward, first step"] = rewarded[0]
        figures["mean reward, last step"] = rewarded[-1]
    judged = [data for data in until.values() if "ropd/groups_judged" in data]
    if judged:
        figures["groups judged"] = int(sum(d["ropd/groups_judged"] for d in judged))
        figures["groups failed and replaced"] = int(sum(d["ropd/groups_failed"] for d in judged))
    return figures
