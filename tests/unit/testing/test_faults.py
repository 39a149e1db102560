"""The vocabulary of faults, and what those of content make of a reply."""

from __future__ import annotations

import json
from typing import Any

import pytest

from algo.testing import HARMLESS, PASSING, REJECTIONS, FaultKind, Reply, spoil
from algo.testing.faults import CONNECTION, STATUSES

OF_CONTENT = [kind for kind in FaultKind if kind not in (*STATUSES, *CONNECTION)]
RUBRIC = {
    "schema_version": "ropd.rubric.v1",
    "rubrics": [{"criterion_id": f"c{k}", "points": 1 + k} for k in range(1, 6)],
}
DRAFTS = {FaultKind.DRAFT_CUT_OFF: "length", FaultKind.DRAFT_UNCLOSED: "stop"}
VERDICTS = {
    "schema_version": "ropd.batch_verifier.v2",
    "answers": [{"answer_index": k, "judgement": [True, False]} for k in (1, 2, 3)],
}


def spoiled(payload: dict[str, Any], kind: FaultKind) -> Reply:
    return spoil(Reply(json.dumps(payload)), kind)


def read(payload: dict[str, Any], kind: FaultKind) -> dict[str, Any]:
    reply = spoiled(payload, kind)
    assert reply.finish_reason == "stop"
    return json.loads(reply.text or "")


def test_every_kind_belongs_to_one_sort() -> None:
    assert sorted([*REJECTIONS, *HARMLESS, *PASSING]) == sorted(FaultKind)
    assert not set(STATUSES) & set(CONNECTION)


@pytest.mark.parametrize("payload", [RUBRIC, VERDICTS], ids=["rubric", "verdicts"])
@pytest.mark.parametrize("kind", FaultKind)
def test_the_kinds_of_content_and_no_others_change_a_reply(
    kind: FaultKind, payload: dict[str, Any]
) -> None:
    whole = Reply(json.dumps(payload))
    assert (spoil(whole, kind) != whole) == (kind in OF_CONTENT)


@pytest.mark.parametrize("payload", [RUBRIC, VERDICTS], ids=["rubric", "verdicts"])
def test_no_two_kinds_look_alike(payload: dict[str, Any]) -> None:
    assert len({spoiled(payload, kind) for kind in OF_CONTENT}) == len(OF_CONTENT)


def test_replies_that_end_too_soon() -> None:
    text = json.dumps(RUBRIC)
    assert spoiled(RUBRIC, FaultKind.TRUNCATED_JSON) == (text[: len(text) // 2], "length", None)
    white, reason, _ = spoiled(RUBRIC, FaultKind.WHITESPACE)
    assert white is not None
    assert (white.rstrip(), reason) == (text[:40].rstrip(), "length")
    assert len(white) > 50_000
    assert spoiled(RUBRIC, FaultKind.EMPTY) == ("", "stop", None)


def test_a_refusal_stands_beside_the_content_or_in_it() -> None:
    beside, prose = (spoiled(RUBRIC, k) for k in (FaultKind.REFUSAL, FaultKind.REFUSAL_IN_PROSE))
    assert (beside.text, bool(beside.refusal)) == (None, True)
    assert (bool(prose.text), prose.refusal) == (True, None)


def test_another_shape_and_another_version() -> None:
    assert read(RUBRIC, FaultKind.WRONG_SCHEMA) == {"schema_version": "other.v0", "items": []}
    other = read(RUBRIC, FaultKind.WRONG_VERSION)
    assert other.pop("schema_version") not in (RUBRIC["schema_version"], "other.v0")
    assert other == {"rubrics": RUBRIC["rubrics"]}


def test_entries_too_many_and_too_few() -> None:
    assert read(RUBRIC, FaultKind.WRONG_COUNT)["rubrics"] == RUBRIC["rubrics"][:2]
    longer = read(VERDICTS, FaultKind.WRONG_COUNT)["answers"]
    assert [len(entry["judgement"]) for entry in longer] == [3, 2, 2]
    missing = read(VERDICTS, FaultKind.MISSING_INDEX)["answers"]
    assert [entry["answer_index"] for entry in missing] == [2, 3]
    double = read(VERDICTS, FaultKind.DOUBLE_INDEX)["answers"]
    assert [entry["answer_index"] for entry in double] == [1, 2, 3, 3]


def test_totals_lie_beside_entries_that_stay_as_they_were() -> None:
    for payload, name in ((RUBRIC, "rubrics"), (VERDICTS, "answers")):
        lying = read(payload, FaultKind.LYING_TOTALS)
        assert lying["maximum_score"] == 9999
        assert [entry.pop("final_score") for entry in lying[name]] == [9999] * len(payload[name])
        assert lying[name] == payload[name]


def test_a_draft_is_whole_and_says_something_else() -> None:
    for payload, name, key, drafted in (
        (RUBRIC, "rubrics", "points", [1] * 5),
        (VERDICTS, "answers", "judgement", [[False, True]] * 3),
    ):
        for kind, reason in (
            (FaultKind.DRAFT_CUT_OFF, "length"),
            (FaultKind.DRAFT_UNCLOSED, "stop"),
        ):
            text, finish_reason, _ = spoiled(payload, kind)
            assert text is not None
            assert finish_reason == reason
            draft = json.loads(text[text.index("{") : text.rindex("}") + 1])
            assert [entry[key] for entry in draft[name]] == drafted
            assert draft["schema_version"] == payload["schema_version"]
            assert text.startswith("<think>") == (kind is FaultKind.DRAFT_UNCLOSED)
            assert "</think>" not in text


@pytest.mark.parametrize(
    "text", ["Good morning.", "[]", "3", '{"a": 1}', '{"a": [1]}', '{"a": []}']
)
def test_kinds_that_speak_of_entries_leave_other_texts_alone(text: str) -> None:
    for kind in (
        FaultKind.WRONG_VERSION,
        FaultKind.WRONG_COUNT,
        FaultKind.MISSING_INDEX,
        FaultKind.DOUBLE_INDEX,
        FaultKind.LYING_TOTALS,
    ):
        assert spoil(Reply(text), kind) == Reply(text)
