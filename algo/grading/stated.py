r"""Finds the final answer that a text states: pure, in linear time, no model.

An answer is *marked*: it stands in ``\boxed{...}``, after "Answer:" or "the answer is", or, for a
choice, in a sentence such as "option C is correct" or alone on its line. The last mark counts. A
mention is no mark: "option D is wrong", "the answer is not D", "if D is correct". A box that is
never closed, as of a text cut off by its limit, states nothing, and what came before it is not
taken in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple


class _Mark(NamedTuple):
    at: int
    answer: str | None
    """None: a mark that states no one answer."""


# Typographic signs, each for its plain one.
_PLAIN: Final = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019", "'"),
        **dict.fromkeys("\u201c\u201d", '"'),
        **dict.fromkeys("\u2013\u2014\u2212", "-"),
        "\uff1a": ":",
        "\u00a0": " ",
    }
)


def stated_value(text: str) -> str | None:
    """The mathematical expression that `text` states last, without its marks; None for none."""
    return _last(_values(text.translate(_PLAIN)))


def stated_choice(text: str) -> str | None:
    """The letter (A to H) that `text` states last; None for none."""
    return _last(_choices(text.translate(_PLAIN)))


def last_number(text: str) -> str | None:
    """The last decimal number in `text`: for tasks whose template asks for no mark."""
    found = _NUMBER.findall(text)
    return found[-1] if found else None


def states_any(text: str) -> bool:
    """Whether `text` marks an answer at all, a broken one included."""
    return any(True for _ in _values(text.translate(_PLAIN)))


def _last(marks: Iterator[_Mark]) -> str | None:
    return max(marks, default=_Mark(0, None), key=lambda mark: mark.at).answer


# ---- boxes

_BOX: Final = re.compile(r"\\f?box(?:ed)?\s{0,9}\{")
_BRACE: Final = re.compile(r"\\.|[{}]", re.DOTALL)


def _boxes(text: str) -> Iterator[tuple[int, str | None]]:
    """Where each box begins, and what it holds; None for one that is not closed."""
    closed_at = _closing_braces(text)
    for box in _BOX.finditer(text):
        end = closed_at.get(box.end() - 1)
        yield box.start(), None if end is None else text[box.end() : end].strip()


def _closing_braces(text: str) -> dict[int, int]:
    opened: list[int] = []
    closing: dict[int, int] = {}
    for brace in _BRACE.finditer(text):
        if brace.group() == "{":
            opened.append(brace.start())
        elif brace.group() == "}" and opened:
            closing[opened.pop()] = brace.start()
    return closing


def _is_balanced(text: str) -> bool:
    braces = [brace for brace in _BRACE.findall(text) if brace in "{}"]
    return braces.count("{") == braces.count("}")


# ---- what both kinds share

# What may stand between a mark and its answer, or around it: Markdown, quotes, LaTeX's delimiters.
_DECOR: Final = r"[\s*_`~\"'$>#]"
_ADVERB: Final = (
    r"(?:\s{1,3}(?:therefore|thus|hence|then|clearly|indeed|simply|definitely|probably|likely|"
    r"most\ likely|now|so|just|exactly|equal\ to|given\ by))?"
)
_IS: Final = rf"(?:\s{{1,3}}(?:is|must\ be|should\ be|would\ be|will\ be|equals|=){_ADVERB}\s?:?)"
_COLON: Final = r"(?:\s{0,3}[:=→]|\s{1,3}-(?=\s))"
# "if the answer is", "not the answer": the clause before a mark takes it back.
_TAKEN_BACK: Final = re.compile(
    r"\b(?:if|whether|unless|suppose|supposing|assume|assuming|why|not|never|isn't|wrong|"
    r"incorrect|false|instead\ of|rather\ than|think|thinks|thought|say|claim|claims|could|might|"
    r"cannot|can't|that\ would\ make)\b[^.!?;:,\n]{0,60}\Z",
    re.IGNORECASE | re.VERBOSE,
)


def _is_taken_back(text: str, at: int) -> bool:
    return _TAKEN_BACK.search(text, max(0, at - 90), at) is not None


# ---- values

_VALUE_MARK: Final = re.compile(
    rf"\b(?:answer|final\s(?:result|solution))\b{_DECOR}{{0,6}}(?:{_COLON}|{_IS})", re.IGNORECASE
)
_HEADING: Final = re.compile(
    rf"^{_DECOR}{{0,6}}(?:the\s)?(?:final\s)?answer{_DECOR}{{0,6}}$", re.IGNORECASE | re.MULTILINE
)
_LINE: Final = re.compile(r"[^\n]{1,1000}")
_DELIMITED: Final = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
# Where the answer ends and the sentence goes on.
_AFTERWARDS: Final = re.compile(
    r"[.!?;](?:\s|$)|\s\((?=\s?[A-Za-z])|,\s(?=[a-zA-Z]{2})|\s-\s(?=[a-zA-Z]{2})"
    r"|\s(?:because|since|as|and\snot|not|rather|instead|which|where|so|but|for|by|if|when)\b"
)
# A sign, a number, LaTeX, a bracket; or one letter that an expression goes on from.
_MATHEMATICAL: Final = re.compile(
    r"[-+±]?\s?(?:\d|\.\d|\\|[(\[{|]\s?[-\d\\a-z(]|√|π|∞|[$€£]\s?\d|[A-Za-z]\s{0,2}(?:[=+*/^_(-]|$))"
)


def _values(text: str) -> Iterator[_Mark]:
    for at, content in _boxes(text):
        if content != "":  # "put it in \boxed{}" quotes the task
            yield _Mark(at, content)
    for marks in (_VALUE_MARK, _HEADING):
        for mark in marks.finditer(text):
            if not _is_taken_back(text, mark.start()):
                yield from _value_after(text, mark)


def _value_after(text: str, mark: re.Match[str]) -> Iterator[_Mark]:
    begin = mark.end()
    while begin < len(text) and text[begin] in " \t\n*_`~\"'>#":
        begin += 1
    if (box := _BOX.search(text, begin, begin + 80)) and "\n" not in text[begin : box.start()]:
        return  # the box is a mark of its own
    if delimited := _DELIMITED.match(text, begin):
        inside = next(filter(None, delimited.groups()))
        yield _Mark(mark.start(), _cleaned(inside))
        return
    if text.startswith(("$$", "\\(", "\\["), begin) or (
        text.startswith("$") and not text[begin + 1 : begin + 2].isdigit()
    ):
        yield _Mark(mark.start(), None)  # cut off within the formula
        return
    line = _LINE.match(text, begin)
    if line is None or not _MATHEMATICAL.match(line.group()):
        return
    yield _Mark(mark.start(), _cleaned(_AFTERWARDS.split(line.group(), maxsplit=1)[0]))


def _cleaned(expression: str) -> str | None:
    """Without Markdown and closing punctuation; None where braces are left open."""
    plain = expression.strip().rstrip(".,;:!*_`~\"' $").removeprefix("$").strip()
    return plain if plain and _is_balanced(plain) else None


_NUMBER: Final = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?!\w)")


# ---- choices

_WRAP: Final = r"(?:\\(?:text|mathrm|mathbf|textbf|mathit|textit|rm|bf)\s?\{?|\\\(|\\\[|\{)"
_NOUN: Final = r"(?:answer|option|choice)"
_BEFORE: Final = rf"(?:{_DECOR}|{_WRAP}|[(\[]){{0,8}}"
_ONE: Final = r"(?P<letter>[A-Ha-h])(?![\w'^])"
# An article: "the answer is a consequence of", "Answer: A carbon atom".
_NO_ARTICLE: Final = (
    r"(?!(?<=[Aa])\s(?!(?:because|since|as|is|for|which|given|due|and|or|by|with|but|not|rather)\b)"
    r"[a-z])"
)
_LETTER: Final = rf"{_BEFORE}(?:(?:option|choice)\s{{1,3}}{_BEFORE})?{_ONE}{_NO_ARTICLE}"
_CORRECT: Final = (
    r"(?:\s{0,3}[)\]}*_`\"$]{0,6}\s{1,3}(?:is|must\ be|seems)\s(?:therefore\s|thus\s|clearly\s|"
    r"indeed\s)?(?:the\s|my\s)?(?:only\s|most\s|best\s|single\s)?"
    r"(?:correct|right|accurate|appropriate|best|answer|true)\b)"
)
_STATEMENTS: Final = (
    # "Answer: C", "the answer is not B but C", "the correct option is therefore (C)"
    re.compile(
        rf"\b{_NOUN}\b{_DECOR}{{0,6}}(?:{_COLON}|{_IS})"
        rf"(?:\s{{1,3}}not{_BEFORE}[A-H][)\]*_`$]{{0,4}},?\s{{1,3}}but(?:\srather)?\s)?{_LETTER}",
        re.IGNORECASE,
    ),
    # "### Answer", and the letter below it
    re.compile(
        rf"^{_DECOR}{{0,6}}(?:the\s)?(?:final\s)?answer[*_`\s]{{0,6}}\n{_LETTER}",
        re.IGNORECASE | re.MULTILINE,
    ),
    # "so I choose C"
    re.compile(rf"\bI\s(?:choose|pick|select|go\swith|would\schoose)\b{_LETTER}"),
    # "option C is correct", "(C) is the right answer"
    re.compile(rf"(?<![\w'])(?:{_NOUN}\s{{1,3}})?[(\[*_`$]{{0,6}}(?P<letter>[A-H]){_CORRECT}"),
    # "No: answer B."
    re.compile(
        rf"\banswer\s{{1,3}}{_BEFORE}(?P<letter>[A-H])(?=[)\]*_`$}}\s]{{0,6}}(?:[.!](?:\s|$)|$))",
        re.IGNORECASE | re.MULTILINE,
    ),
    # "C", "**(C)**", "Option C." alone on a line
    re.compile(
        rf"^{_DECOR}{{0,8}}(?:(?i:{_NOUN})\s{{1,3}})?{_BEFORE}(?P<letter>[A-H])"
        r"(?:[)\]}.!*_`$\"\s]|\\\)|\\\]){0,8}$",
        re.MULTILINE,
    ),
)
_LOWER_ENDS: Final = re.compile(r"[)\]}.!*_`$\"]{0,6}\s*(?:\n|\Z)|[)\]]")
# "A or B", "A, B": one mark, no one answer.
_SEVERAL: Final = re.compile(
    r"[)\]}*_`$]{0,4}\s?(?:,|/|&|\bor\b|\band\b)\s?(?:\bor\b|\band\b)?\s?[(\[*_`$]{0,4}[A-H]"
    r"[)\]}*_`$]{0,4}(?:[.!;]|\s*(?:\n|\Z))"
)
_BOXED_LETTER: Final = re.compile(
    rf"(?:{_DECOR}|{_WRAP}|[(\[]|\b(?:option|choice|answer)\b:?){{0,8}}{_ONE}"
    r"(?P<rest>.{0,400})\Z",
    re.IGNORECASE | re.DOTALL,
)
_CLOSES_BOX: Final = re.compile(r"[)\]}.:*_`$\s]|\\[)\]]")


def _choices(text: str) -> Iterator[_Mark]:
    for at, content in _boxes(text):
        if content == "":
            continue
        yield _Mark(at, None if content is None else _boxed_letter(content))
    for pattern in _STATEMENTS:
        for found in pattern.finditer(text):
            letter, end = found.group("letter"), found.end("letter")
            if _is_taken_back(text, found.start()):
                continue
            if letter.islower() and not _LOWER_ENDS.match(text, end):
                continue
            several = _SEVERAL.match(text, end)
            yield _Mark(found.start("letter"), None if several else letter.upper())


def _boxed_letter(content: str) -> str | None:
    found = _BOXED_LETTER.match(content)
    if found is None:
        return None
    rest = found.group("rest")
    if rest and not _CLOSES_BOX.match(rest):  # an expression such as A+B
        return None
    several = _SEVERAL.match(rest)
    return None if several else found.group("letter").upper()
