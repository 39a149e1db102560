"""Results as a file and as lines on a terminal; and two results compared.

`results.json` holds everything that the lines say, and each problem's mean, so that a comparison
needs no grading.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from algo.errors import ConfigurationError
from algo.evaluation.log import Protocol
from algo.evaluation.results import Outcome, SetResult
from algo.evaluation.statistics import Interval, PairedDifference, compare, holm

RESULTS_SCHEMA: Final = "ropd.eval_results.v1"
RESULTS_FILE: Final = "results.json"
_MUST_AGREE: Final = ("temperature", "top_p", "max_tokens", "extra_body", "reasoning_effort")
_NAMED: Final = {
    Outcome.NO_ANSWER: "no answer",
    Outcome.CUT_OFF: "cut off",
    Outcome.UNGRADED: "not judged (`ropd eval judge`)",
}


def write_results(folder: Path, protocol: Protocol, results: Sequence[SetResult]) -> Path:
    """Write `results.json` beside the answers, whole or not at all."""
    record = {
        "schema_version": RESULTS_SCHEMA,
        "protocol": asdict(protocol),
        "sets": {each.name: _figures(each) for each in results},
    }
    path = folder / RESULTS_FILE
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def read_results(folder: Path) -> Mapping[str, Any]:
    """The content of `results.json`; raises `ConfigurationError` where there is none."""
    path = folder / RESULTS_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error}): `ropd eval regrade {folder}` makes it anew"
        ) from None
    if not isinstance(record, dict) or record.get("schema_version") != RESULTS_SCHEMA:
        raise ConfigurationError(f"{path} is not {RESULTS_SCHEMA}: `ropd eval regrade {folder}`")
    return record


def _figures(result: SetResult) -> dict[str, Any]:
    return {
        **asdict(result),
        "asked": result.asked,
        "answered": result.answered,
        "failed": result.failed,
    }


def lines(sets: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """One line a set, and what went wrong below it. `sets` as in `results.json`."""
    for name, figures in sets.items():
        yield f"{name}: {_score(figures)} ({_denominator(figures)})"
        yield from _details(figures)


def _score(figures: Mapping[str, Any]) -> str:
    score = figures["score"]
    if score is None:
        return "no score"
    if score["se"] is None:
        return percent(score["mean"])
    sampling = figures["sampling_error"]
    again = "" if sampling is None else f", ± {100 * sampling:.1f} if sampled again"
    return f"{percent(score['mean'])} ± {100 * (score['high'] - score['mean']):.1f}{again}"


def _denominator(figures: Mapping[str, Any]) -> str:
    parts = [
        f"{figures['answered_problems']}/{figures['problems']} problems",
        f"{figures['answered']}/{figures['asked']} answers",
    ]
    parts += [
        f"{figures['outcomes'][outcome]} {said}"
        for outcome, said in _NAMED.items()
        if figures["outcomes"][outcome]
    ]
    failures: Mapping[str, int] = figures["failures"]
    if failures:
        kinds = ", ".join(f"{count} {kind}" for kind, count in failures.items())
        parts.append(f"{figures['failed']} failed: {kinds}")
    if figures["missing"]:
        parts.append(f"{figures['missing']} not asked yet")
    return ", ".join(parts)


def _details(figures: Mapping[str, Any]) -> Iterator[str]:
    more = {k: v for k, v in figures["pass_at"].items() if int(k) > 1}
    parts = [f"pass@{k} {percent(value)}" for k, value in more.items()]
    if more and figures["majority"] is not None:
        parts.append(f"majority@{figures['samples']} {percent(figures['majority'])}")
    if figures["mean_tokens"] is not None:
        parts.append(f"{figures['mean_tokens']:,.0f} tokens an answer")
    if parts:
        yield f"  {', '.join(parts)}"
    if figures["by_tag"]:
        tags = (f"{tag} {percent(score)}" for tag, score in figures["by_tag"].items())
        yield f"  {', '.join(tags)}"
        yield "  by a grader prompt of this project: no standard HealthBench score, nor the paper's"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


@dataclass(frozen=True)
class Compared:
    """One set of two results; `p` is adjusted for the number of sets (Holm)."""

    name: str
    first: float
    second: float
    comparison: PairedDifference
    p: float


def compare_results(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Compared]:
    """Every set that both results hold, problem by problem.

    Raises `ConfigurationError` where they share no set, or were not asked for alike: other problems
    or templates, sampling, limits, samples a problem, or answers that are missing.
    """
    _check_alike(first["protocol"], second["protocol"])
    shared = [name for name in first["sets"] if name in second["sets"]]
    if not shared:
        raise ConfigurationError(
            f"the results share no set: {', '.join(first['sets'])} and {', '.join(second['sets'])}"
        )
    pairs = {name: (first["sets"][name], second["sets"][name]) for name in shared}
    for name, (one, other) in pairs.items():
        _check_set(name, first["protocol"], second["protocol"], one, other)
    compared = {n: compare(a["by_problem"], b["by_problem"]) for n, (a, b) in pairs.items()}
    adjusted = holm({name: each.p for name, each in compared.items()})
    return [
        Compared(n, a["score"]["mean"], b["score"]["mean"], compared[n], adjusted[n])
        for n, (a, b) in pairs.items()
    ]


def compared_line(compared: Compared) -> str:
    """Such as `aime25: 41.0 % -> 48.3 %, +7.3 ± 6.1 points, p 0.021 over 30 problems`."""
    difference: Interval = compared.comparison.difference
    reach = "" if difference.half_width is None else f" ± {100 * difference.half_width:.1f}"
    return (
        f"{compared.name}: {percent(compared.first)} -> {percent(compared.second)}, "
        f"{100 * difference.mean:+.1f}{reach} points, p {compared.p:.2g} "
        f"over {difference.n} problems"
    )


def _check_alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    differs = [name for name in _MUST_AGREE if first[name] != second[name]]
    if differs:
        said = ", ".join(f"{name} {first[name]!r} and {second[name]!r}" for name in differs)
        raise ConfigurationError(
            f"these results were not asked for alike ({said}): their difference would not be the "
            "models'"
        )


def _check_set(
    name: str,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    one: Mapping[str, Any],
    other: Mapping[str, Any],
) -> None:
    if first["sets"][name] != second["sets"][name]:
        raise ConfigurationError(
            f"set {name} holds other problems, answers or prompt templates in the two results"
        )
    if one["samples"] != other["samples"]:
        raise ConfigurationError(
            f"set {name} has {one['samples']} samples a problem in one result and "
            f"{other['samples']} in the other: `ropd eval regrade DIR --samples` lowers the larger"
        )
    for figures in (one, other):
        if figures["answered_problems"] < figures["problems"]:
            raise ConfigurationError(
                f"set {name} has problems without an answer ({_denominator(figures)}): run "
                "`ropd eval run` again with the same --out to ask for what is missing"
            )
