"""Errors cross process boundaries whole."""

from __future__ import annotations

import pickle

import pytest

from algo.errors import (
    ConfigurationError,
    FailureKind,
    JournalError,
    JudgeFailure,
    JudgeOutage,
    RequestRejected,
    RopdError,
    TeacherIndexError,
    TeacherMissing,
)


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("set ropd.x"),
        TeacherIndexError("damaged"),
        TeacherMissing("ab" * 32, 4, 1),
        JournalError("full"),
        JudgeFailure(FailureKind.REFUSAL, "verifier", "declined", "verifier m at u"),
        JudgeFailure(kind="timeout", stage="rubricator", message="slow"),
        RequestRejected(FailureKind.CONTEXT_OVERFLOW, "verifier", "too long", "e"),
        RequestRejected(FailureKind.TRANSPORT, "verifier", "no json_schema", "e", True),
        JudgeOutage("verifier m at u", FailureKind.TRANSPORT, 301.5, "refused"),
    ],
)
def test_every_error_survives_pickling_with_its_attributes(error: RopdError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_messages_name_what_to_do() -> None:
    assert "ropd teacher build" in str(TeacherMissing("ab" * 32, 4, 1))
    outage = str(JudgeOutage("verifier m at u", FailureKind.TRANSPORT, 301.5, "refused"))
    assert all(part in outage for part in ("verifier m at u", "transport", "302 s", "refused"))
