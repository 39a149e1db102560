"""How a record's answers were shown to its Verifier, from the journal's folder alone.

Template, context, cutting, sampling and the teachers' words are those of the run, wherever its
folder lies now and whatever became of `prompts/`, teacher index and tokenizer since. What a journal
of an earlier version does not hold is an error, or noted in `lacking`, and never taken from today's
configuration in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from algo.errors import ConfigurationError, JournalError
from algo.judge.journal import kept_file, read_texts
from algo.judge.record import SENT, sha256
from algo.llm.settings import validated
from algo.paths import shipped
from algo.ropd.prompts import load_verifier_template
from algo.ropd.settings import (
    JudgeSettings,
    PromptsSettings,
    RopdSettings,
    VerificationSettings,
    VerifierSettings,
)
from algo.teacher.teacher_index import TeacherIndex

_OF_THE_ENDPOINT: Final = frozenset(("api",))
"""What another judge brings itself: how its server is spoken to."""
NO_CUTTING: Final = (
    "judgements of an earlier version do not say how answers were cut: theirs are shown whole"
)
NO_TEACHERS: Final = (
    "panels of an earlier version lack the teachers' words: their students are judged alone "
    "(--teacher-index gives the words)"
)


class AsJudged:
    """The folder of a journal, as far as prompts are made anew from it."""

    def __init__(self, folder: Path, index: TeacherIndex | None = None) -> None:
        self._folder = folder
        self._texts = read_texts(folder)
        self._index = index
        self.lacking: Counter[str] = Counter()
        """What was not there, in words, and how often."""

    def sampling(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The Verifier's settings that another judge is to share, as far as they are recorded."""
        role = record["roles"]["verifier"]
        return {key: role[key] for key in SENT if key in role and key not in _OF_THE_ENDPOINT}

    def settings(self, record: Mapping[str, Any]) -> RopdSettings:
        """The settings under which a `Verifier` shows what the record's did; raises
        `JournalError`."""
        role = record["roles"]["verifier"]
        if "context_tokens" not in role or "overflow" not in record:
            self.lacking[NO_CUTTING] += 1
        node = {**self.sampling(record), "tokenizer": self._tokenizer(record)}
        overflow = record.get("overflow", "cut")
        return RopdSettings(
            prompts=PromptsSettings(verifier=self._template(record)),
            verification=VerificationSettings(mode=record["verification_mode"], overflow=overflow),
            judge=JudgeSettings(verifier=validated(VerifierSettings, node, "the recorded role")),
        )

    def teacher_texts(self, record: Mapping[str, Any]) -> list[str] | None:
        """The teachers' words in the record's order; `None` where they are lost, which is noted.

        Raises `JournalError` where an index is named that is not the run's.
        """
        names = [teacher["sha256"] for teacher in record["teachers"]]
        found = self._texts
        if self._index is not None and not found.keys() >= set(names):
            stored = self._index.all_answers(record["fingerprint"])
            answers = (answer.shown for answer in stored)
            found = {**{sha256(answer): answer for answer in answers}, **found}
        missing = next((name for name in names if name not in found), None)
        if missing is None:
            return [found[name] for name in names]
        if self._index is None:
            self.lacking[NO_TEACHERS] += 1
            return None
        raise JournalError(
            f"the teacher index lacks the answer {missing[:12]} that judgement "
            f"{record['judgement_id']} was made with: name the index of that run"
        )

    def _template(self, record: Mapping[str, Any]) -> Path:
        name = record["templates"]["verifier"]
        if (kept := kept_file(self._folder, name, ".txt")) is not None:
            return kept
        if load_verifier_template(None).sha256 == name:
            return shipped("prompts") / "verifier.txt"
        raise JournalError(
            f"judgement {record['judgement_id']} was made with the Verifier template {name[:12]}, "
            f"which its journal, of an earlier version, does not hold: copy that template to "
            f"{self._folder / 'files' / f'{name}.txt'}"
        )

    def _tokenizer(self, record: Mapping[str, Any]) -> str | None:
        name = record["roles"]["verifier"].get("tokenizer")
        if name is None:
            return None
        kept = kept_file(self._folder, name, ".json")
        if kept is None:
            raise JournalError(
                f"judgement {record['judgement_id']} was fitted with the tokenizer {name[:12]}, "
                f"and {self._folder / 'files' / f'{name}.json'} is missing: restore it"
            )
        return str(kept)


def given_settings(node: Mapping[str, Any]) -> dict[str, Any]:
    """The keys below `replay.verifier` of `key=value` words; raises `ConfigurationError`."""
    inner = node.get("replay", {})
    given = inner.get("verifier", {}) if isinstance(inner, Mapping) else None
    if not isinstance(given, Mapping) or node.keys() - {"replay"} or inner.keys() - {"verifier"}:
        raise ConfigurationError(
            "`ropd replay` takes settings of the other judge alone, such as "
            "replay.verifier.temperature=null"
        )
    return dict(given)
