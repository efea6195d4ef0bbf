from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_nb.data.detection import detect
from peft_nb.data.quality import duplicates
from peft_nb.data.splits import Texts, chosen, split

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty", "knoll", "lemon")


def texts(count: int, seed: int = 0) -> list[str]:
    """Texts that have little in common with each other."""
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) + str(draw.randrange(1000)) for _ in range(12)) for _ in range(count)]


def test_a_split_is_the_same_on_every_machine() -> None:
    assert split(texts(10), 0.3, seed=42) == ([0, 2, 3, 4, 5, 6, 8], [1, 7, 9])


@pytest.mark.parametrize(
    ("rows", "fraction", "held"),
    [
        (10, 0.1, 1),
        (10, 0, 0),
        (1, 0.5, 0),
        (2, 0.01, 1),
        (2, 0.5, 1),
        (3, 1.0, 2),
        (0, 0.5, 0),
        (1000, 0.25, 250),
    ],
)
def test_a_split_sets_aside_the_share_asked_for(rows: int, fraction: float, held: int) -> None:
    train, evaluation = split(texts(rows), fraction, seed=1)
    assert len(evaluation) == held
    assert sorted(train + evaluation) == list(range(rows))
    assert (train, evaluation) == (sorted(train), sorted(evaluation))


def test_another_seed_splits_otherwise() -> None:
    many = texts(1000)
    assert split(many, 0.1, seed=1) != split(many, 0.1, seed=2)


# ---- nothing leaks -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_nearly_equal_rows_stay_on_one_side(seed: int) -> None:
    near = ["Please tell me, where is my parcel today and when will it be here with me at home?"]
    near += [near[0].replace("Please", "Kindly"), near[0].upper(), near[0] + " Thanks", f"  {near[0]}\n"]
    rows = [*texts(40), *near]
    random.Random(seed).shuffle(rows)
    _, held = split(rows, 0.2, seed)
    assert len(held) == 9
    together = {at in held for at, row in enumerate(rows) if row in near}
    assert len(together) == 1


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=30),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 2**32),
    kinds=st.integers(0, 4),
)
def test_whatever_the_groups_none_is_torn_and_both_sides_have_rows(
    sizes: list[int], fraction: float, seed: int, kinds: int
) -> None:
    different = texts(len(sizes))
    rows = [(group, text) for group, text in enumerate(different) for _ in range(sizes[group])]
    random.Random(seed).shuffle(rows)
    labels = [group % kinds for group, _ in rows] if kinds else None
    train, held = split([text for _, text in rows], fraction, seed, labels)
    assert sorted(train + held) == list(range(len(rows)))
    assert not {rows[at][0] for at in train} & {rows[at][0] for at in held}
    assert train
    assert held
    if not kinds:
        wanted = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
        left = {rows[at][0] for at in train}
        assert len(left) == 1 or all(
            abs(len(held) + sizes[group] - wanted) >= abs(len(held) - wanted) for group in left
        ), "another group would have come closer"
    assert (train, held) == split([text for _, text in rows], fraction, seed, labels)


def test_rows_that_are_all_the_same_cannot_be_split() -> None:
    assert split(["the same words again and again"] * 8, 0.5, seed=1) == (list(range(8)), [])


def test_a_group_larger_than_the_share_is_only_taken_where_nothing_else_is_left() -> None:
    one, other = texts(2)
    assert split([one] * 6 + [other] * 5, 0.1, seed=3) == (list(range(6)), list(range(6, 11)))


def test_many_rows_are_only_compared_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "NEAR_ROWS", 10)
    rows = [*texts(20), *texts(20)]
    train, held = split(rows, 0.25, seed=1)
    assert len(held) == 10
    assert not {rows[at] for at in train} & {rows[at] for at in held}


# ---- labels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_set_aside_in_its_share(seed: int) -> None:
    labels = ["often"] * 700 + ["sometimes"] * 200 + ["seldom"] * 90 + ["rare"] * 9 + ["once"]
    random.Random(seed).shuffle(labels)
    train, held = split(texts(1000), 0.1, seed, labels)
    assert Counter(labels[at] for at in held) == {"often": 70, "sometimes": 20, "seldom": 9, "rare": 1}
    assert {labels[at] for at in train} == set(labels)


def test_of_classes_with_a_few_rows_one_always_stays_for_training() -> None:
    labels = [("a",), ("a", "b"), ("a",), ("b",), ("b",), ("c",)]
    for seed in range(20):
        train, held = split(texts(6), 0.5, seed, labels)
        assert {labels[at] for at in train} == set(labels)
        assert len(held) == 2


def test_a_group_counts_for_its_commonest_class() -> None:
    rows = [*texts(90), *["nearly all of these are about the same thing"] * 10]
    labels = ["a"] * 90 + ["b"] * 9 + ["a"]
    for seed in range(10):
        _, held = split(rows, 0.2, seed, labels)
        assert Counter(labels[at] for at in held) in ({"a": 18}, {"a": 18, "b": 9} | {"a": 19})


# ---- what rows say -----------------------------------------------------------------------------


def test_rows_say_their_prompts_and_answers_but_not_what_the_system_says() -> None:
    rows: list[dict[str, Any]] = [
        {"question": "Where?", "answer": "Here.", "system": "Be brief."},
        {"question": "When?", "answer": "Now.", "system": "Be brief."},
        {"question": "Why?", "answer": "So.", "system": "Be brief."},
    ]
    said = Texts(rows, detect(rows), [0, 2])
    assert list(said) == ["Where?\nHere.", "Why?\nSo."]
    assert (len(said), said[1], said[-1], list(said[1:])) == (2, "Why?\nSo.", "Why?\nSo.", ["Why?\nSo."])
    plain = [{"text": "one"}, {"text": "two"}]
    assert list(Texts(plain, detect(plain), range(2))) == ["one", "two"]


def test_pairs_and_rated_answers_of_one_prompt_stay_on_one_side() -> None:
    prompts = [f"Where is {place}?" for place in ("Oslo", "Kyiv", "Rome", "Bern")] * 3
    pairs = [{"prompt": prompt, "chosen": f"A {n}.", "rejected": f"B {n}."} for n, prompt in enumerate(prompts)]
    rated = [{"prompt": prompt, "completion": f"A {n}.", "label": n % 2} for n, prompt in enumerate(prompts)]
    for rows in (pairs, rated):
        said = Texts(rows, detect(rows), range(12))
        assert list(said) == prompts
        train, held = split(said, 0.3, seed=1)
        assert held
        assert not {prompts[place] for place in train} & {prompts[place] for place in held}


def test_one_side_of_a_split_is_read_when_it_is_needed() -> None:
    rows = [{"n": number, "text": str(number)} for number in range(10)]
    side = chosen(rows, [1, 4, 5, 9])
    assert list(side) == [rows[number] for number in (1, 4, 5, 9)]
    assert side[1:3] == [rows[4], rows[5]]
    assert len(side) == 4
