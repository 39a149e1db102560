"""What the journal keeps of a group."""

from __future__ import annotations

from algo.asking.query import Exchange
from algo.judge.method import Judgement
from algo.judge.record import Setup, failed_record, sha256
from algo.llm.endpoint import Endpoint
from algo.ropd.settings import VerifierSettings
from tests.builders.judgements import REPLY, failure, group_of


def test_a_failed_record_holds_what_was_said_and_no_score() -> None:
    judgement = Judgement(group_of(2), "fp", "q", teachers=("t1", "t2"))
    judgement.transcript.append(Exchange("verifier", REPLY, "invalid: wrong"))
    endpoint = Endpoint("verifier", "m", "u", VerifierSettings())
    setup = Setup("ropd", {"templates": {"verifier": "ab"}}, [endpoint])
    record = failed_record(judgement, failure(), setup)
    assert (record["method"], record["templates"]) == ("ropd", {"verifier": "ab"})
    assert record["status"] == "failed"
    assert record["failure"]["kind"] == "invalid"
    assert "scores" not in record
    assert record["calls"][0]["raw"] == "t"
    assert record["calls"][0]["fault"] == "invalid: wrong"
    assert record["teachers"] == [{"sha256": sha256("t1")}, {"sha256": sha256("t2")}]
