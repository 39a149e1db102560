"""Converts the official release's index files, ``ropd.teacher_index.v1`` and ``.v2``, both ways.

Their records are found by (uid, raw_prompt_hash), where the hash is our prompt fingerprint and the
uid the data set's index. Each imported record is kept whole beside its first answer, unknown keys
included, so that exporting gives it back; answers that were built here are exported as v2.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from algo.errors import ConfigurationError, TeacherIndexError
from algo.teacher.teacher_index import (
    OFFICIAL_SCHEMA_VERSIONS,
    AnswerStatus,
    Header,
    TeacherAnswer,
    TeacherIndex,
    teachers_of,
)
from algo.teacher.writer import TeacherIndexWriter, utc_now
from algo.thinking import holds_answer

_V1, _V2 = OFFICIAL_SCHEMA_VERSIONS
# Malformed lines named in the error.
_SHOWN = 10
_IMPORTED = {"official", "official_of"}
"""Keys of `TeacherAnswer.extra`: of the first answer of an imported record, and of its others."""
_ANSWER_KEYS = {_V1: "teacher_answer", _V2: "teacher_answers"}


def import_official(files: Iterable[Path], out: Path) -> int:
    """Write the records of official files to the new index `out`; returns how many answers.

    Raises `TeacherIndexError` that names the malformed lines; then nothing was written.
    """
    answers: list[TeacherAnswer] = []
    faults: list[str] = []
    seen: dict[tuple[str, str], str] = {}
    files = list(files)
    for file in files:
        for place, line in _lines(file):
            try:
                record = _checked(line)
                key = (str(record["uid"]), record["raw_prompt_hash"])
                if key in seen:
                    raise ValueError(f"repeats uid and raw_prompt_hash of {seen[key]}")
                seen[key] = place
                answers.extend(_answers(record))
            except ValueError as error:
                faults.append(f"{place}: {error}")
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise TeacherIndexError(
            f"{len(faults)} malformed lines, nothing was imported: "
            f"{'; '.join(faults[:_SHOWN])}{more}"
        )
    header = Header(teachers_of(answers), utc_now(), {"imported": [str(file) for file in files]})
    with TeacherIndexWriter.create(out, header) as writer:
        writer.append(answers)
    return len(answers)


def export_official(index: TeacherIndex, out: Path, uids: Mapping[str, str]) -> int:
    """Write `index` as an official file; returns how many records. Imported records are given back
    whole, of what was built here the usable answers.

    `uids` gives the data set's index of each prompt fingerprint. Raises `ConfigurationError` when
    a prompt that was built here has none, or when `out` exists.
    """
    try:
        with out.open("x", encoding="ascii", newline="\n") as file:
            written = 0
            for record in _official_records(index, uids):
                file.write(json.dumps(record, ensure_ascii=True) + "\n")
                written += 1
            return written
    except FileExistsError:
        raise ConfigurationError(f"{out} exists already: choose another --out") from None
    except ConfigurationError:
        out.unlink()
        raise


def _lines(file: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with file.open("rb") as opened:
            for number, line in enumerate(opened, start=1):
                if line.strip():
                    yield f"{file}, line {number}", line
    except OSError as error:
        raise TeacherIndexError(f"cannot read {file}: {error.strerror}") from None


def _checked(line: bytes) -> dict[str, Any]:
    """The record of a line; raises `ValueError` that says what is wrong with it."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    version = record.get("schema_version")
    if version not in _ANSWER_KEYS:
        raise ValueError(f"schema_version is {version!r}, not {_V1} or {_V2}")
    missing = {"uid", "raw_prompt_hash", _ANSWER_KEYS[version]} - record.keys()
    if missing:
        raise ValueError(f"lacks {', '.join(sorted(missing))}")
    key = record["raw_prompt_hash"]
    if not isinstance(key, str) or len(key) != 64 or set(key) - set("0123456789abcdef"):
        raise ValueError("raw_prompt_hash is not the SHA-256 of a prompt in lower-case hex")
    if not isinstance(record.get("teacher_fingerprint", {}), dict):
        raise ValueError("teacher_fingerprint is not an object")
    texts = _texts(record)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{_ANSWER_KEYS[version]} holds no text, or an empty one")
    return record


def _texts(record: Mapping[str, Any]) -> list[Any]:
    held = record[_ANSWER_KEYS[record["schema_version"]]]
    if record["schema_version"] == _V1:
        return [held]
    return held if isinstance(held, list) else []


def _answers(record: dict[str, Any]) -> Iterator[TeacherAnswer]:
    teacher = record.get("teacher_fingerprint", {})
    sampling = {
        ours: teacher[theirs]
        for ours, theirs in (
            ("temperature", "temperature"),
            ("top_p", "top_p"),
            ("reasoning_effort", "reasoning_effort"),
            ("max_tokens", "max_output_tokens"),
        )
        if teacher.get(theirs) is not None
    }
    answer_key = _ANSWER_KEYS[record["schema_version"]]
    rest = {key: value for key, value in record.items() if key != answer_key}
    for i, text in enumerate(_texts(record)):
        # As the builder does; the official format does not say how an answer ended.
        shows = holds_answer(text, thinks=True)
        yield TeacherAnswer(
            fingerprint=record["raw_prompt_hash"],
            text=text,
            model=str(teacher.get("model", "unknown")),
            status=AnswerStatus.USABLE if shows else AnswerStatus.EMPTY,
            sampling=sampling,
            extra={"official": rest} if i == 0 else {"official_of": str(record["uid"])},
        )


def _official_records(index: TeacherIndex, uids: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    done: set[str] = set()
    for first in index:
        key = first.fingerprint
        if key in done:
            continue
        done.add(key)
        built = [a for a in index.usable(key) if not a.extra.keys() & _IMPORTED]
        imported = [a for a in index.all_answers(key) if a.extra.keys() & _IMPORTED]
        for head in (a for a in imported if "official" in a.extra):
            yield _given_back(head, imported)
        if built:
            yield _record(index.header, key, built, uids)


def _given_back(head: TeacherAnswer, answers: Iterable[TeacherAnswer]) -> dict[str, Any]:
    record = dict(head.extra["official"])
    if record["schema_version"] == _V1:
        return {**record, "teacher_answer": head.text}
    uid = str(record["uid"])
    texts = [a.text for a in answers if a is head or a.extra.get("official_of") == uid]
    return {**record, "teacher_answers": texts}


def _record(
    header: Header, key: str, answers: list[TeacherAnswer], uids: Mapping[str, str]
) -> dict[str, Any]:
    if key not in uids:
        raise ConfigurationError(
            f"prompt {key[:12]} is not in the data: give the files that the index was built from "
            "with --data, for official records are found by the data set's index"
        )
    sampling = answers[0].sampling
    return {
        "schema_version": _V2,
        "uid": uids[key],
        "raw_prompt_hash": key,
        "teacher_answers": [answer.text for answer in answers],
        "teacher_fingerprint": {
            "provider": "openai_compatible",
            "model": answers[0].model,
            "base_url": header.provenance.get("base_url"),
            "reasoning_effort": sampling.get("reasoning_effort"),
            "max_output_tokens": sampling.get("max_tokens"),
            "temperature": sampling.get("temperature"),
            "top_p": sampling.get("top_p"),
            "timeout_seconds": None,
            "prompt_template_version": None,
        },
    }
