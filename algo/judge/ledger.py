"""What a run has spent on its judge, in tokens and money, and when that is its whole budget.

Counts every reply, whoever gets it: of groups, of probes, of trial requests, usable or not. What an
earlier start of the run spent is read from its journal and costs what the prices say now. A reply
whose endpoint does not tell its tokens counts one token for three characters, which is a high
estimate for the languages and code that judges read: such a budget ends early rather than late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

from algo.errors import BudgetSpent, ConfigurationError, FailureKind
from algo.judge.journal import journal_files, read_expenses, read_records
from algo.judge.settings import BudgetSettings
from algo.llm.endpoint import Reply, Request
from algo.llm.settings import PricesSettings, RoleSettings

_CHARACTERS_PER_TOKEN: Final = 3


class Usage(NamedTuple):
    """The tokens of one reply."""

    fresh: int
    """Of the prompt, read anew."""
    cached: int
    """Of the prompt, from the endpoint's cache."""
    written: int

    @classmethod
    def of_reply(cls, request: Request, reply: Reply) -> Usage:
        return cls._counted(vars(reply), request.characters, len(reply.text))

    @classmethod
    def of_call(cls, call: Mapping[str, Any]) -> Usage:
        """The same of a record's call; one without a reply cost nothing that is known."""
        if "raw" not in call:
            return cls(0, 0, 0)
        return cls._counted(call, call.get("prompt_characters", 0), call["length"])

    @classmethod
    def _counted(cls, told: Mapping[str, Any], asked: int, answered: int) -> Usage:
        prompt, written = told.get("prompt_tokens"), told.get("completion_tokens")
        prompt = asked // _CHARACTERS_PER_TOKEN if prompt is None else prompt
        written = answered // _CHARACTERS_PER_TOKEN if written is None else written
        cached = min(told.get("cached_tokens") or 0, prompt)
        return cls(prompt - cached, cached, written)


@dataclass
class Spending:
    """The sums so far, against `budget`; `prices` are those of the roles."""

    budget: BudgetSettings
    prices: Mapping[str, PricesSettings]
    tokens: int = 0
    cost: float = 0.0
    is_over: bool = False
    """Whether its end was announced."""

    def add(self, role: str, usage: Usage) -> None:
        self.tokens += sum(usage)
        if role in self.prices:
            self.cost += self.prices[role].cost(*usage)

    def add_record(self, record: Mapping[str, Any]) -> None:
        """A judgement or an expense of an earlier start."""
        for call in record["calls"]:
            self.add(call["stage"], Usage.of_call(call))

    def spent(self) -> BudgetSpent | None:
        """What to stop the run with, if it has come to that."""
        budget = self.budget
        if budget.tokens is not None and self.tokens >= budget.tokens:
            return _spent("tokens", f"{self.tokens:,} tokens", f"{budget.tokens:,}")
        if budget.cost is not None and self.cost >= budget.cost:
            return _spent("cost", f"{self.cost:,.4g}", f"{budget.cost:,g}")
        return None


def _spent(key: str, spent: str, budget: str) -> BudgetSpent:
    setting = f"ropd.judge.budget.{key}"
    return BudgetSpent(
        "every endpoint",
        FailureKind.BUDGET,
        0.0,
        f"the judge's budget is spent: {spent} in all starts of this run, and {setting} is "
        f"{budget}; to go on, raise it or set it to null, and change nothing else",
    )


def read_ledger(
    folder: Path, budget: BudgetSettings, prices: Mapping[str, PricesSettings]
) -> Spending:
    """What the starts of a run have spent that its journal's folder knows of."""
    ledger = Spending(budget, prices)
    if journal_files(folder):
        for record in chain(read_records(folder), read_expenses(folder)):
            ledger.add_record(record)
    return ledger


def check_budget(budget: BudgetSettings, roles: Mapping[str, RoleSettings]) -> None:
    """Raise `ConfigurationError` for a budget in money where nothing has a price."""
    if budget.cost is None:
        return
    if not any(settings.prices.cost(1, 1, 1) for settings in roles.values()):
        keys = " or ".join(f"ropd.judge.{role}.prices" for role in roles)
        raise ConfigurationError(
            f"ropd.judge.budget.cost={budget.cost:g} and no role has a price, so it would never be "
            f"spent: set {keys}, or ropd.judge.budget.tokens instead"
        )
