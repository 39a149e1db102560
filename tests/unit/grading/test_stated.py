"""Which answer a text states: marks of every shape, mentions that are none, the last one counts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo.grading.ground_truth import grade
from algo.grading.stated import last_number, stated_choice, stated_value

LETTERS = st.sampled_from("ABCDEFGH")

# What may be written around a letter.
WRAPS = st.sampled_from(
    [
        "{}",
        "({})",
        "**{}**",
        "**({})**",
        "[{}]",
        "`{}`",
        "*{}*",
        "$ {} $",
        r"$\text{{{}}}$",
        r"$\mathbf{{{}}}$",
        r"\({}\)",
        r"\textbf{{({})}}",
        r"\boxed{{{}}}",
        r"$\boxed{{\text{{{}}}}}$",
        r"\boxed{{({})}}",
        r"\boxed{{\mathrm{{{}}}}}",
    ]
)
LEADS = st.sampled_from(
    [
        "Answer: ",
        "ANSWER: ",
        "answer: ",
        "**Answer:** ",
        "**Answer**: ",
        "**Final Answer: ",
        "### Answer\n\n",
        "Final answer: ",
        "Answer\uff1a",
        "Answer \u2014 ",
        "\u201cAnswer: ",
        "Answer - ",
        "The answer is ",
        "So the answer is: ",
        "The correct answer is therefore ",
        "the correct option is ",
        "Thus, the right choice is ",
        "The answer must be option ",
        "Answer: option ",
        "Hence the answer would be choice ",
        "The answer is clearly ",
        "> Answer: ",
        "- Answer: ",
        "Answer:\n",
        "Correct option: ",
        "I choose ",
    ]
)
TAILS = st.sampled_from(
    ["", ".", "\n", ".\n\n", ". ", " because of symmetry.", ", since energy is kept.", ".**", "!"]
)
# What speaks of a letter and states none.
MENTIONS = st.sampled_from(
    [
        "(Option {} is wrong because it breaks symmetry.)",
        "Option {} is incorrect.",
        "Choice {} fails at zero.",
        "The answer is not {}.",
        "It is not option {}.",
        "The answer cannot be {}.",
        "The answer isn't {}.",
        "I rule out option {}.",
        "If option {} is correct, energy is lost.",
        "If the answer is {} then energy is lost.",
        "One might think the answer is {}.",
        "{} is not correct.",
        "({}) is wrong.",
        "**Option {}** is false: the sign is wrong.",
        "The wrong option is {}.",
        "Unlike {}, it keeps the sign.",
        "The answer differs from {}.",
        "Compare option {} with the rest.",
        "Why is option {} tempting?",
        "- {}: no, the sign is wrong.",
        "{}) 3.5 eV",
    ]
)


@settings(deadline=None, max_examples=400)
@given(LEADS, WRAPS, LETTERS, TAILS)
def test_a_marked_letter_is_read_in_every_writing(
    lead: str, wrap: str, letter: str, tail: str
) -> None:
    text = "Reasoning about a field.\n" + lead + wrap.format(letter) + tail
    assert stated_choice(text) == letter


@settings(deadline=None, max_examples=400)
@given(LEADS, WRAPS, LETTERS, st.lists(st.tuples(MENTIONS, LETTERS), max_size=3), st.booleans())
def test_a_mention_before_or_after_changes_nothing(
    lead: str, wrap: str, letter: str, mentions: list[tuple[str, str]], before: bool
) -> None:
    said = [mention.format(of) for mention, of in mentions]
    own = lead + wrap.format(letter) + "."
    text = "\n".join([*said, own]) if before else "\n".join([own, *said])
    assert stated_choice(text) == letter
    assert stated_choice(f"{own} {' '.join(said)}" if not before else text) == letter


@given(st.lists(st.tuples(MENTIONS, LETTERS), min_size=1, max_size=4))
def test_mentions_alone_state_nothing(mentions: list[tuple[str, str]]) -> None:
    assert stated_choice(" ".join(mention.format(of) for mention, of in mentions)) is None


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(LEADS, WRAPS, LETTERS), min_size=2, max_size=4))
def test_the_last_of_several_marks_counts(marks: list[tuple[str, str, str]]) -> None:
    text = "\n".join(lead + wrap.format(letter) + "." for lead, wrap, letter in marks)
    assert stated_choice(text) == marks[-1][2]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: C. (Option D is wrong because it is odd)", "C"),
        ("The answer is not B but C.", "C"),
        ("Answer: neither A nor B", None),
        ("Answer: A or B", None),
        ("Answer: A, B", None),
        (r"\boxed{A, B}", None),
        (r"\boxed{A+B}", None),
        (r"\boxed{C", None),
        (r"Answer: B. So \boxed{C", None),
        (r"\boxed{\text{C) the field}}", "C"),
        (r"\boxed{C: the field}", "C"),
        ("Answer: LETTER", None),
        ("Answer: Carbon", None),
        ("Answer: A carbon atom", None),
        ("Answer: A", "A"),
        ("Answer: c", "C"),
        ("The answer is a matter of taste", None),
        ("Option C is the correct one; option C is correct.", "C"),
        ("Answer: B\nI put it into \\boxed{} as asked.", "B"),
        ("A) one\nB) two\nC) three\n\nAnswer: B", "B"),
        ("Answer: B\n\nA) is too small, C) too large", "B"),
        ("", None),
    ],
)
def test_choices_by_example(text: str, letter: str | None) -> None:
    assert stated_choice(text) == letter


# ---- values

VALUE_LEADS = st.sampled_from(
    [
        "Answer: ",
        "**Answer:** ",
        "**Final Answer**: ",
        "The final answer is ",
        "So the answer is: ",
        "### Final Answer\n\n",
        "The answer is therefore ",
        "Answer:\n",
        "The final result is ",
        "Answer = ",
    ]
)
VALUE_WRAPS = st.sampled_from(
    [
        "{}",
        "${}$",
        "**{}**",
        r"\({}\)",
        r"\[{}\]",
        "$$\n{}\n$$",
        "$x = {}$",
        r"\boxed{{{}}}",
        "`{}`",
    ]
)
VALUE_TAILS = st.sampled_from(
    ["", ".", ".\n", " because 7 of the 12 cases fall away.", " (not 99).", ", not 99.", "**",
     ". There were 12 steps.", "\n\nI checked 3 cases.", "\nThe first try gave 99."]
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(VALUE_LEADS, VALUE_WRAPS, st.integers(-999, 10**6), VALUE_TAILS)
def test_a_marked_number_is_read_in_every_writing(
    lead: str, wrap: str, value: int, tail: str
) -> None:
    stated = stated_value(f"We try 99 first.\n{lead}{wrap.format(value)}{tail}")
    assert stated is not None
    assert stated.replace(" ", "").removeprefix("x=") == str(value)


@given(
    st.text(st.sampled_from("ab \n.,:$*=+"), max_size=40),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=4),
)
def test_a_stray_number_is_no_answer(words: str, numbers: list[int]) -> None:
    text = f"{words} so " + " and ".join(f"{n} of them" for n in numbers)
    assert stated_value(text) is None


@pytest.mark.parametrize("box", [r"\boxed{", r"\boxed{3", r"\boxed{\frac{34}{1}", r"$\fbox{34"])
@pytest.mark.parametrize(
    "before", ["", "It is 34. ", "Answer: 34\n", r"\boxed{34} ", "The answer is 34. "]
)
def test_an_unfinished_box_falls_back_to_nothing(box: str, before: str) -> None:
    text = before + box
    assert stated_value(text) is None
    assert [grade(source, text, "34") for source in ("math", "aime24", "number")] == [0.0] * 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"Answer: 35. So \boxed{34}", "34"),
        (r"\boxed{34}. The answer is 35.", "35"),
        (r"\boxed{34}. So the answer is a consequence of Lemma 3.", "34"),
        (r"\boxed{34}. The answer is correct, as 34 > 3.", "34"),
        (r"\boxed{34}. The answer is not 35.", "34"),
        (r"\boxed{34}. If the answer is 35, we fail.", "34"),
        ("The answer is 34 apples per tree.", "34 apples per tree"),
        (r"I write \boxed{}: Answer: 7", "7"),
        (r"Answer: $\frac{1", None),
        (r"Answer: \frac{1", None),
        ("Answer: \u22125", "-5"),
        ("Answer: $5", "5"),
        (r"\boxed{34}. Check: the result is 1156, squared.", "34"),
        ("Answer: x^2+1", "x^2+1"),
        ("Answer: (1, 2)", "(1, 2)"),
        ("hence $34$", None),
    ],
)
def test_values_by_example(text: str, value: str | None) -> None:
    assert stated_value(text) == value


def test_a_last_number_counts_where_the_template_says_so_and_nothing_is_marked() -> None:
    assert grade("number_own", "so 3 and 34", "34") == 1.0
    assert grade("number_own", "Answer: 3. I saw 34", "34") == 0.0
    assert grade("math_own", "so 3 and 34", "34") == 0.0
    assert last_number("1,000.5 or x2") == "1,000.5"


@settings(deadline=None)
@given(st.text(st.sampled_from("answer option is :*$\\boxed{}()[]ABC12\n.,-"), max_size=300))
def test_no_text_is_too_odd(text: str) -> None:
    assert (stated_choice(text) or "A") in "ABCDEFGH"
    stated_value(text)


@pytest.mark.parametrize(
    "part", ["answer ", "answer is ", r"\boxed{", "$", "(", "**", "Answer: $", "option A ", " \n"]
)
def test_a_repeated_text_is_read_in_time_that_grows_with_its_length(part: str) -> None:
    started = time.process_time()
    stated_choice((part * 2000)[:2000])
    stated_value((part * 2000)[:2000])
    assert time.process_time() - started < 5.0
