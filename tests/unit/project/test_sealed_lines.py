"""Sealed lines: what goes in comes out, any change is told, whole lines are found in damage."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from algo.sealed_lines import BrokenLine, seal, unseal, whole_lines

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
records = st.dictionaries(st.text(), values, min_size=1, max_size=4).filter(
    lambda record: "crc32" not in record
)


@settings(deadline=None)
@given(records)
def test_a_record_comes_back_from_one_ascii_line(record: dict[str, Any]) -> None:
    line = seal(record)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert unseal(line) == record
    assert unseal(line[:-1]) == record
    assert json.loads(line)["crc32"]


@settings(deadline=None)
@given(records, st.data())
def test_any_change_is_told(record: dict[str, Any], data: st.DataObject) -> None:
    line = seal(record)[:-1]
    place = data.draw(st.integers(0, len(line) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != line[place]))
    with pytest.raises(BrokenLine):
        unseal(line[:place] + bytes([other]) + line[place + 1 :])
    with pytest.raises(BrokenLine):
        unseal(line[:place])


@settings(deadline=None)
@given(st.lists(records, min_size=1, max_size=3), st.binary(max_size=20))
def test_whole_lines_are_found_behind_garbage_and_joined(
    written: list[dict[str, Any]], garbage: bytes
) -> None:
    assume(b"{" not in garbage)
    joined = garbage + b"".join(seal(record)[:-1] for record in written)
    assert [unseal(line) for line in whole_lines(joined)] == written


def test_what_cannot_be_sealed_is_refused() -> None:
    for record in ({}, {"crc32": 1}, {"x": float("nan")}):
        with pytest.raises(ValueError):  # noqa: PT011
            seal(record)
