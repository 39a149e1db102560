"""The part of the Hydra node `ropd` that every judged method shares.

A method's own settings stand in its own module; `algo/ropd/settings.py` has ROPD's and the whole
node.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ConfigDict, Field

from algo.judge.group import Unfinished
from algo.llm.settings import Fraction, LimitsSettings, Settings, validated

OptionsT = TypeVar("OptionsT", bound=Settings)


class MethodSettings(Settings):
    """Which method turns a group into rewards, and that method's own options beside its name."""

    model_config = ConfigDict(extra="allow")

    name: str = "ropd"
    """One of `algo/methods/registry.py`."""

    def read(self, options: type[OptionsT]) -> OptionsT:
        """The keys beside `name` as the method's own `options`.

        Raises `ConfigurationError` naming each wrong key.
        """
        return validated(options, self.model_extra or {}, "ropd.method")


class GateSettings(Settings):
    """The quality gate: too many failed groups stop the run."""

    window: int = Field(default=64, ge=1)
    """The last so many groups are looked at."""
    max_failed_fraction: Fraction = 0.3
    """The gate closes once more than this share of a whole window has failed."""
    action: Literal["stop", "pause"] = "stop"
    """`pause` holds the groups back and lets single ones try again, up to `limits.outage_s`."""


class BudgetSettings(Settings):
    """What the judge may cost a run, all its starts counted: groups, probes and trial requests.

    Once it is spent nothing more is sent, what is in flight ends and is journaled, and the run
    stops with a checkpoint. The same command with a higher budget goes on."""

    tokens: int | None = Field(default=None, ge=1)
    """Of prompts, cached ones included, and replies, over all roles; `null` is no limit."""
    cost: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """In the currency of the roles' `prices`; `null` is no limit."""


class RolloutsSettings(Settings):
    """How a rollout's text is read before a judge sees it."""

    unfinished: Unfinished = "judge"
    """A rollout that the model did not end itself, for it met the token limit: `judge` shows it as
    it is, as the paper judges every rollout; `zero` scores it 0 by a rule; `drop` leaves it out
    of its group's mean and of the loss, which takes `algorithm.adv_estimator=ropd_grpo`."""
    thinking: bool | None = None
    """Whether the student thinks. If so, only what stands after the last `</think>` is judged; if
    not, the whole text is, whatever tags it holds. `null`: as its chat template says, under
    `data.apply_chat_template_kwargs`."""


class EngineSettings(Settings):
    """What the engine itself reads, whatever the method."""

    method: MethodSettings = MethodSettings()
    teacher_index: Path | None = None
    """File made by `ropd teacher build`."""
    teacher_answers: int = Field(default=4, ge=1)
    """m of Eq. 1: how many distinct ones of a prompt's stored answers are shown; a prompt must
    have as many, equal ones counted."""
    teacher_seed: int = 0
    """Draws them, together with the prompt, where more are stored."""
    journal_dir: Path | None = None
    """Folder of the judgement journal; one process writes to it."""
    gate: GateSettings = GateSettings()
    rollouts: RolloutsSettings = RolloutsSettings()

    @property
    def limits(self) -> LimitsSettings:
        """What bounds the requests; the whole node keeps it beside the roles."""
        raise NotImplementedError

    @property
    def budget(self) -> BudgetSettings:
        """What the judge may cost; the whole node keeps it beside the limits."""
        return BudgetSettings()
