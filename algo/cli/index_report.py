"""How `ropd teacher stats` and `ropd teacher show` look on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from algo.data.prompt_file import PromptRow
from algo.teacher.stats import IndexStats, Lengths
from algo.teacher.teacher_index import Header, TeacherAnswer

_BAR = 40


def print_stats(header: Header, stats: IndexStats, m: int) -> None:
    console = Console()
    table = Table.grid(padding=(0, 2))
    for name, value in _rows(header, stats, m):
        table.add_row(name, Text(value))
    console.print(table)
    console.print("length in characters, answers up to each bound")
    console.print(_histogram(stats.lengths))


def _rows(header: Header, stats: IndexStats, m: int) -> list[tuple[str, str]]:
    teachers = "; ".join(
        f"{teacher.model}, temperature {teacher.temperature}" for teacher in header.teachers
    )
    lengths = stats.lengths
    usable = {f"with {count}": prompts for count, prompts in stats.usable_per_prompt.items()}
    rows = [
        ("teacher", teachers or "unknown"),
        ("created", header.created),
        ("prompts", f"{stats.prompts:,}"),
        ("answers", f"{stats.answers:,} ({_counts(stats.by_status)})"),
        ("usable answers", f"prompts {_counts(usable)}"),
        ("distinct a prompt", f"{stats.distinct_per_prompt:.2f} on average"),
        (f"shown at m={m}", f"{stats.shown_per_prompt:.2f} on average"),
        ("prompts that repeat", f"{stats.prompts_repeating:,}"),
        (
            "characters",
            f"{lengths.smallest:,} to {lengths.largest:,}, median {lengths.median:,}, "
            f"95 % up to {lengths.p95:,}",
        ),
        ("tokens", f"{stats.prompt_tokens:,} prompt, {stats.completion_tokens:,} completion"),
    ]
    if stats.data_prompts is not None:
        rows.append(
            (f"data with {m} answers", f"{stats.data_covered:,} of {stats.data_prompts:,} prompts")
        )
        rows.append(("not in the data", f"{stats.not_in_data:,} prompts"))
    if stats.agreement is not None:
        rows.append(
            ("agree with ground truth", f"{stats.agreement:.1%} of {stats.graded:,} graded")
        )
    return rows


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items()) or "none"


def _histogram(lengths: Lengths) -> Table:
    table = Table.grid(padding=(0, 2))
    most = max(lengths.histogram.values(), default=1)
    for bound, number in lengths.histogram.items():
        table.add_row(f"{bound:,}", f"{number:,}", "#" * max(1, round(_BAR * number / most)))
    return table


def print_prompt(
    fingerprint: str, prompt: PromptRow | None, answers: Sequence[TeacherAnswer]
) -> None:
    console = Console()
    console.rule(f"prompt {fingerprint}")
    if prompt is not None:
        for message in prompt.messages:
            console.print(Text(f"[{message['role']}]", style="dim"))
            console.print(Text(str(message.get("content"))))
    for number, answer in enumerate(answers, start=1):
        tokens = "" if answer.completion_tokens is None else f", {answer.completion_tokens} tokens"
        console.rule(f"answer {number}: {answer.status}, {answer.model}{tokens}", style="dim")
        console.print(Text(answer.text.encode("utf-8", "replace").decode()))
