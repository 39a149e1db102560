"""How often a prompt was judged before: the same numbers whatever the order, and after a resume."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from algo.judge.occurrences import Occurrences

PROMPTS = st.lists(st.sampled_from("abc"), max_size=30)


@given(PROMPTS, st.randoms())
def test_each_prompt_has_its_numbers_from_zero_on_in_any_order(prompts: list[str], random) -> None:
    random.shuffle(prompts)
    given_out = Occurrences()
    taken = [(prompt, given_out.take(prompt)) for prompt in prompts]
    expected = [(p, k) for p, count in Counter(prompts).items() for k in range(count)]
    assert sorted(taken) == sorted(expected)


@given(PROMPTS, PROMPTS, st.randoms())
def test_a_resumed_run_gives_out_the_lowest_numbers_that_no_record_has(
    before: list[str], after: list[str], random
) -> None:
    first = Occurrences()
    recorded: list[tuple[str, int | None]] = []
    for prompt in before:
        number = first.take(prompt)
        if random.random() < 0.5:
            recorded.append((prompt, number))  # the others were cut off by a kill
    random.shuffle(recorded)
    resumed = Occurrences(recorded)
    used = set(recorded)
    for prompt in after:
        number = resumed.take(prompt)
        assert number == next(k for k in range(99) if (prompt, k) not in used)
        used.add((prompt, number))


@given(PROMPTS, st.randoms())
def test_a_number_given_back_is_the_next_one(prompts: list[str], random) -> None:
    given_out = Occurrences()
    in_use: set[tuple[str, int]] = set()
    for prompt in prompts:
        number = given_out.take(prompt)
        assert (prompt, number) not in in_use
        assert number == next(k for k in range(99) if (prompt, k) not in in_use)
        in_use.add((prompt, number))
        if random.random() < 0.4:
            back = random.choice(sorted(in_use))
            in_use.remove(back)
            given_out.give_back(*back)


def test_records_of_an_earlier_version_count_as_the_first() -> None:
    resumed = Occurrences([("a", None), ("a", None), ("a", 2), ("b", None)])
    assert [resumed.take(prompt) for prompt in "aab"] == [3, 4, 1]
