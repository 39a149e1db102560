"""`key=value` words: what is read of them, and that what is written is read as the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.errors import ConfigurationError
from algo.overrides import override, read_overrides

# What a command line can carry, and YAML can print.
WRITABLE = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff")
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.7", 0.7),
        ("8192", 8192),
        ("1e-3", 0.001),
        ("false", False),
        ("null", None),
        ("", ""),
        ("low", "low"),
        ("Be brief: one line # at most", "Be brief: one line # at most"),
        ("- first\n- second", "- first\n- second"),
        ("Take ${oc.env:HOME} literally", "Take ${oc.env:HOME} literally"),
        ("2 + 2 = 4", "2 + 2 = 4"),
        ("2026-01-31", "2026-01-31"),
        ('"7"', "7"),
        ("[a, 1]", ["a", 1]),
        ("{enable_thinking: false}", {"enable_thinking": False}),
    ],
)
def test_values(text: str, value: object) -> None:
    assert read_overrides([f"k={text}"]) == {"k": value}


def test_dotted_keys_nest_and_the_later_value_holds() -> None:
    words = ["a.b.c=1", "a.b.d=2", "a.b.c=3", "e={f: 4}", "e.g=5"]
    assert read_overrides(words) == {"a": {"b": {"c": 3, "d": 2}}, "e": {"f": 4, "g": 5}}


@pytest.mark.parametrize("word", ["word", "=1", "a..b=1", ".a=1", "a.=1", "--seed"])
def test_a_word_that_is_no_setting_is_named(word: str) -> None:
    with pytest.raises(ConfigurationError, match="write key=value"):
        read_overrides([word])


def test_a_value_and_a_mapping_under_one_key_contradict() -> None:
    with pytest.raises(ConfigurationError, match=r"^a\.b: a has a value already"):
        read_overrides(["a=1", "a.b=2"])


@pytest.mark.parametrize("text", ["{a", "[1", '"open', "'quoted' and more"])
def test_broken_yaml_names_its_key(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^k: "):
        read_overrides([f"k={text}"])


@given(
    st.one_of(
        WRITABLE,
        st.sampled_from(["7", "null", "true", "1e3", "~", " 7 ", "[x", "{x", '"x', "'x", "${x}"]),
        st.booleans(),
        st.integers(-(10**9), 10**9),
        st.dictionaries(st.text("abc", min_size=1), st.booleans() | st.text("x: #"), max_size=3),
    )
)
def test_what_is_written_is_read_as_the_same(value: Any) -> None:
    assert read_overrides([override("a.b", value)]) == {"a": {"b": value}}
