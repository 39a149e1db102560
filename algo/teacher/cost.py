"""What a build costs, has cost, and may cost at most. Money is in the currency of the prices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from algo.errors import ConfigurationError
from algo.llm.settings import PricesSettings
from algo.teacher.build import BuildReport, Wanted

# Between prose (4) and mathematics (3): an estimate of cost that errs on the high side.
_CHARACTERS_PER_TOKEN = 3.5
_PER_TOKEN = 1e-6


def cost(prices: PricesSettings, prompt_tokens: float, completion_tokens: float) -> float:
    """The price of so many tokens, as if none came from a cache."""
    return (prompt_tokens * prices.input + completion_tokens * prices.output) * _PER_TOKEN


@dataclass(frozen=True)
class Budget:
    """Most tokens and most money that a build may use. None is no limit.

    A request in flight is taken to be as large as the largest so far; before the first reply, as
    large as `max_tokens` allows.
    """

    tokens: int | None
    money: float | None
    prices: PricesSettings
    max_tokens: int

    def __post_init__(self) -> None:
        if self.money is not None and not (self.prices.input or self.prices.output):
            raise ConfigurationError(
                "--budget needs the teacher's prices: give teacher.prices.input and "
                "teacher.prices.output, per million tokens"
            )

    def allows(self, report: BuildReport, in_flight: int) -> bool:
        """Whether one more request fits beside the `in_flight` ones.

        Raises `ConfigurationError` when the endpoint does not report tokens.
        """
        if self.tokens is None and self.money is None:
            return True
        if report.without_usage:
            raise ConfigurationError(
                "the endpoint does not report the tokens of its replies, so that no budget can be "
                "kept: leave out --budget and budget_tokens, or use --limit"
            )
        prompt = report.largest_prompt
        completion = report.largest_completion or self.max_tokens
        ahead = in_flight + 1
        tokens = report.prompt_tokens + report.completion_tokens + ahead * (prompt + completion)
        money = cost(
            self.prices,
            report.prompt_tokens + ahead * prompt,
            report.completion_tokens + ahead * completion,
        )
        return (self.tokens is None or tokens <= self.tokens) and (
            self.money is None or money <= self.money
        )


@dataclass(frozen=True)
class Estimate:
    """What a build would ask for. Prompt tokens are told from characters."""

    prompts: int
    answers: int
    prompt_tokens: int
    completion_tokens: int | None
    """From the mean of the answers that the index holds; None when it holds none."""
    most_completion_tokens: int


def estimate(
    wanted: Sequence[Wanted], completion_tokens: Iterable[int | None], max_tokens: int
) -> Estimate:
    """The size of a build. `completion_tokens` are those of answers that were made before."""
    known = [tokens for tokens in completion_tokens if tokens is not None]
    answers = sum(item.missing for item in wanted)
    characters = sum(
        item.missing * sum(len(str(message.get("content"))) for message in item.prompt.messages)
        for item in wanted
    )
    return Estimate(
        prompts=len(wanted),
        answers=answers,
        prompt_tokens=round(characters / _CHARACTERS_PER_TOKEN),
        completion_tokens=round(answers * sum(known) / len(known)) if known else None,
        most_completion_tokens=answers * max_tokens,
    )
