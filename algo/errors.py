"""The exception tree of the project, rooted at `RopdError`.

Every exception keeps all its constructor arguments in `args`, positionally, so that it survives
pickling (Ray carries exceptions between processes) with its attributes. No message may hold an API
key; callers pass endpoint names, never headers.
"""

from __future__ import annotations

from enum import StrEnum


class FailureKind(StrEnum):
    """Why the judgement of one group failed."""

    TRANSPORT = "transport"
    """Connection refused or reset, a 5xx, half a body, or a status that no other kind covers."""
    RATE_LIMIT = "rate_limit"
    """HTTP 429."""
    TIMEOUT = "timeout"
    """No complete reply within the role's `timeout_s`, or the stage's deadline passed."""
    REFUSAL = "refusal"
    """The judge declined to answer, or a content filter did."""
    TRUNCATED = "truncated"
    """The reply stopped at the role's `max_tokens` before its JSON was complete."""
    UNPARSEABLE = "unparseable"
    """The reply holds no JSON object."""
    INVALID = "invalid"
    """The reply holds JSON that breaks the schema or contradicts the request."""
    TEACHER_MISSING = "teacher_missing"
    """The teacher index lacks the answers this prompt needs."""
    CONTEXT_OVERFLOW = "context_overflow"
    """The prompt does not fit the judge's context."""
    BUDGET = "budget"
    """`ropd.judge.budget` was spent before the group was judged."""


class RopdError(Exception):
    """Root of all errors that this project raises on purpose."""


class ConfigurationError(RopdError):
    """Something the user can fix; the message is one line that names the setting and the fix."""


class TeacherIndexError(RopdError):
    """The teacher index cannot be read or written."""


class TeacherMissing(TeacherIndexError):
    """The index holds fewer teacher answers for a prompt than the method asks for.

    `fingerprint` is the prompt fingerprint, `needed` is m, `found` is what the index holds.
    """

    def __init__(self, fingerprint: str, needed: int, found: int) -> None:
        super().__init__(fingerprint, needed, found)
        self.fingerprint = fingerprint
        self.needed = needed
        self.found = found

    def __str__(self) -> str:
        return (
            f"the teacher index holds {self.found} of {self.needed} answers for prompt "
            f"{self.fingerprint[:12]}: build the missing ones with `ropd teacher build`, "
            "or lower ropd.teacher_answers"
        )


class JournalError(RopdError):
    """The judgement journal cannot be written, or a record in it is damaged."""


class MethodError(RopdError):
    """A method broke its contract with the engine: a mistake in its code, which ends the run."""


class JudgeFailure(RopdError):
    """The judgement of one group failed; the group leaves the batch and gets no score."""

    def __init__(
        self, kind: FailureKind | str, stage: str, message: str, endpoint: str = ""
    ) -> None:
        kind = FailureKind(kind)
        super().__init__(kind, stage, message, endpoint)
        self.kind = kind
        self.stage = stage
        self.message = message
        self.endpoint = endpoint

    def __str__(self) -> str:
        where = f" at {self.endpoint}" if self.endpoint else ""
        return f"{self.stage}: {self.kind.value}{where}: {self.message}"


class RequestRejected(JudgeFailure):
    """The endpoint refuses this very request (HTTP 400, 404, 413, 422): a retry cannot help.

    `about_schema`: it names the reply's JSON schema as the reason.
    """

    def __init__(
        self,
        kind: FailureKind | str,
        stage: str,
        message: str,
        endpoint: str = "",
        about_schema: bool = False,
    ) -> None:
        super().__init__(kind, stage, message, endpoint)
        self.args = (*self.args, about_schema)
        self.about_schema = about_schema


class JudgeOutage(RopdError):
    """The judge cannot be used any more and the run must stop.

    Raised when an endpoint answered nothing usable for `ropd.judge.limits.outage_s` (`seconds` is
    how long it has been failing), or when the quality gate closed.
    """

    def __init__(
        self, endpoint: str, kind: FailureKind | str, seconds: float, message: str
    ) -> None:
        kind = FailureKind(kind)
        super().__init__(endpoint, kind, seconds, message)
        self.endpoint = endpoint
        self.kind = kind
        self.seconds = seconds
        self.message = message

    def __str__(self) -> str:
        return (
            f"judge outage at {self.endpoint} ({self.kind.value}, {self.seconds:.0f} s): "
            f"{self.message}"
        )


class BudgetSpent(JudgeOutage):
    """`ropd.judge.budget` is spent: the run stops, and goes on where it is raised."""

    def __str__(self) -> str:
        return self.message
