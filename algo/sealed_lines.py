"""JSON lines that carry their own checksum.

A sealed line is one JSON object, ASCII only, whose last key ``crc32`` covers every byte before it:
it stays readable by any JSON tool, and a flipped byte, half a line or a line edited by hand is told
from a whole one. Non-ASCII text is escaped, so no character of a record (line separators,
byte-order marks, lone surrogates) can end a line or break the encoding.

This module does not own files, locks or what the records mean.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

_SEAL = re.compile(rb',"crc32":"([0-9a-f]{8})"\}')
_SEAL_LENGTH = len(b',"crc32":"01234567"}')


class BrokenLine(ValueError):
    """A line that is not a whole sealed record; the message says in which way."""


def seal(record: Mapping[str, Any]) -> bytes:
    """The record as one sealed line, newline included. The record has at least one key."""
    if not record or "crc32" in record:
        raise ValueError("a sealed record has at least one key and none named crc32")
    body = json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    covered = body.encode("ascii")[:-1]
    return b'%b,"crc32":"%08x"}\n' % (covered, zlib.crc32(covered))


def unseal(line: bytes) -> dict[str, Any]:
    """The record of one line (with or without its newline). Raises `BrokenLine`."""
    line = line.removesuffix(b"\n")
    mark = _SEAL.fullmatch(line, max(0, len(line) - _SEAL_LENGTH))
    if mark is None:
        raise BrokenLine(f"{len(line)} bytes that do not end in a crc32 key")
    if zlib.crc32(line[: mark.start()]) != int(mark[1], 16):
        raise BrokenLine("the bytes do not match their crc32")
    record = _loads(line)  # an object, since it is JSON and ends in its last key
    del record["crc32"]
    return record


def whole_lines(damaged: bytes) -> Iterator[bytes]:
    """The sealed lines still whole inside a damaged stretch, e.g. two joined by a lost newline.

    The seal's quotes cannot occur unescaped inside a JSON string, so it marks every record's end.
    """
    start = 0
    for mark in _SEAL.finditer(damaged):
        candidate = damaged[start : mark.end()]
        start = mark.end()
        for opening in _openings(candidate):
            try:
                unseal(candidate[opening:])
            except BrokenLine:
                continue
            yield candidate[opening:] + b"\n"
            break


def _openings(candidate: bytes) -> Iterator[int]:
    return (match.start() for match in re.finditer(rb'\{"', candidate))


def _loads(line: bytes) -> dict[str, Any]:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(line)  # orjson refuses lone surrogates, which are legal here
    except ValueError as error:
        raise BrokenLine(f"not JSON: {error}") from None
