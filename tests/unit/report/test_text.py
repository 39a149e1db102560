"""The report: whatever a model or a rollout writes stays text, and a page keeps its bound."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo.report.census import Census
from algo.report.page import fitted
from algo.report.selection import select
from algo.report.text import excerpt, visible
from tests.builders.reporting import (
    NO_FACTS,
    Page,
    entry,
    failed,
    parsed,
    record,
    report,
    write_journal,
)


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    page = report(write_journal(tmp_path, record(), failed()))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "object", "embed", "base", "form", "audio"}
    for tag, attributes in page.tags:
        for name, value in attributes:
            assert not name.startswith("on")
            if name in ("href", "src", "action"):
                assert (value or "").startswith("#") or (tag, value) == ("link", "data:,")
    assert "url(" not in page.html
    assert "@import" not in page.html
    assert "default-src 'none'" in page.html


# --- hostile and endless texts --------------------------------------------------------------

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</pre></details></article></body></html><h1>reward 1.0</h1>",
    '"><svg onload=alert(1)>',
    "{{ 7 * 7 }} {% include '/etc/passwd' %}",
    "<!-- ",
    "]]><![CDATA[",
    "a lone \ud800 surrogate, \x00 and \u202e reversed",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_shown_as_they_are(tmp_path: Path, text: str) -> None:
    page = report(write_journal(tmp_path, record([text, "x", "y"]), failed(word=text)))
    assert f"\n{visible(text)}" in page.texts
    assert not any(tag in ("script", "img") for tag, _ in page.tags)


@given(
    st.text(st.characters(), min_size=1, max_size=80).filter(lambda text: "</think>" not in text)
)
@settings(deadline=None, max_examples=60)
def test_no_text_changes_the_structure_of_the_page(text: str) -> None:
    def page(word: str) -> Page:
        records = [record([word, word, word], word=word), failed(word=word)]
        census = Census((entry(0, 1, [8 / 11, 5 / 11, 0.0]), entry(1, 1, None, "timeout")), {})
        chosen = select(census, None, None)
        texts = {"a" * 64: word}
        return parsed(
            fitted(census, chosen, NO_FACTS, dict(enumerate(records)), texts, 10**7).decode()
        )

    shown = page(text)
    assert shown.tags == page("word").tags
    assert shown.texts.count(f"\n{visible(text)}") == 5  # three rollouts, a teacher twice
    assert f"\nquestion {visible(text)}" in shown.texts


@given(st.text(st.characters(), max_size=50))
def test_visible_text_can_be_written_and_hides_nothing(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert not {unicodedata.category(each) for each in set(shown) - set("\n\t\u200c\u200d")} & {
        "Cc",
        "Cf",
        "Cs",
    }
    plain = "".join(character for character in text if character.isprintable())
    assert visible(plain) == plain


def test_what_reorders_or_hides_text_is_spelled_out() -> None:
    assert visible("a\u202eb\u200bc\x1bd\ud800e\r\n\t") == (
        "a<U+202E>b<U+200B>c<U+001B>d<U+D800>e<U+000D>\n\t"
    )


@given(st.text(max_size=60), st.integers(1, 50))
def test_an_excerpt_keeps_both_ends_and_counts_what_it_leaves_out(text: str, limit: int) -> None:
    part = excerpt(text, limit)
    assert len(part.head + part.tail) + part.cut == len(text)
    assert len(part.head + part.tail) <= max(limit, 0)
    assert text.startswith(part.head)
    assert text.endswith(part.tail)


def test_endless_texts_are_cut_to_keep_the_bound_and_the_page_says_so(tmp_path: Path) -> None:
    long = [record(["&" * 50_000] * 13, step=step) for step in range(1, 5)]
    run = write_journal(tmp_path, *long)
    page = report(run)
    assert len(page.html.encode()) <= 3_000_000
    assert "characters left out here" in page.text
    larger = report(run, max_mb=30.0)
    assert len(larger.html.encode()) > 3_000_000
    assert "Texts longer than 20,000 characters" in larger.text


def test_groups_are_left_out_when_cutting_texts_is_not_enough(tmp_path: Path) -> None:
    run = write_journal(tmp_path, *(record(["x" * 400] * 65, step=step) for step in (1, 2, 3)))
    page = report(run, max_mb=0.12)
    assert len(page.html.encode()) <= 120_000
    assert "groups were left out to keep the page small" in page.text
    assert "1 of the journal's 3 groups" in page.text
