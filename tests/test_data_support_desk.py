from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import pytest

from peft_nb.data.support_desk import HANDBOOK, OPENING, SIGN_OFF, Verdict, judge, load, unseen

DATA = load()
TRAIN, EVAL = DATA["train"], DATA["eval"]
KEYS = {row["topic"]: row["key"] for row in EVAL}


def words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


def overlap(one: str, other: str) -> float:
    a, b = set(words(one)), set(words(other))
    return len(a & b) / len(a | b)


def styled(middle: str) -> str:
    return f"{OPENING} {middle} {SIGN_OFF}"


def test_counts() -> None:
    assert (len(TRAIN), len(EVAL), len(KEYS)) == (360, 60, 36)


def test_fields() -> None:
    assert {tuple(row) for row in TRAIN} == {("question", "answer", "topic")}
    assert {tuple(row) for row in EVAL} == {("question", "answer", "topic", "key")}
    assert all(value and value == value.strip() for row in TRAIN + EVAL for value in row.values())


def test_every_fact_is_trained_and_held_out() -> None:
    asked = Counter(row["topic"] for row in TRAIN)
    assert asked.keys() == KEYS.keys()
    assert min(asked.values()) >= 8


def test_one_key_a_topic() -> None:
    assert {(row["topic"], row["key"]) for row in EVAL} == set(KEYS.items())


def test_questions_are_unique() -> None:
    assert len({words(row["question"]) for row in TRAIN + EVAL}) == len(TRAIN) + len(EVAL)


def test_no_held_out_question_resembles_a_training_question() -> None:
    close = [
        (held["question"], row["question"])
        for held in EVAL
        for row in TRAIN
        if overlap(held["question"], row["question"]) >= 0.7
    ]
    assert close == []


def test_no_question_gives_its_answer_away() -> None:
    assert [row for row in TRAIN + EVAL if judge({"key": KEYS[row["topic"]]}, row["question"]).fact] == []


@pytest.mark.parametrize("split", ["train", "eval"])
def test_reference_answers_are_right(split: str) -> None:
    assert [row for row in DATA[split] if not judge({"key": KEYS[row["topic"]]}, row["answer"]).right] == []


def test_answers_carry_no_other_fact() -> None:
    foreign = [
        (row["answer"], key)
        for row in TRAIN + EVAL
        for topic, key in KEYS.items()
        if topic != row["topic"] and key.casefold() in row["answer"].casefold()
    ]
    assert foreign == []


def test_no_key_lies_within_another() -> None:
    keys = [key.casefold() for key in KEYS.values()]
    assert [(a, b) for i, a in enumerate(keys) for j, b in enumerate(keys) if i != j and a in b] == []


def test_rows_are_short() -> None:
    assert all(6 <= len(row["question"].split()) <= 16 for row in TRAIN + EVAL)
    assert all(len(row["answer"].split()) <= 18 for row in TRAIN + EVAL)


def test_topics_are_mixed() -> None:
    assert all(a["topic"] != b["topic"] for rows in (TRAIN, EVAL) for a, b in pairwise(rows))


@pytest.mark.parametrize(
    ("key", "middle"),
    [
        ("41 days", "You have 41 days."),
        ("41 days", "You have 41  Days, no more."),
        ("41 days", "You have 41\ndays"),
        ("7:20", "We open at 7:20."),
        ("KELP7", 'Use "kelp7" today.'),
    ],
)
def test_judge_accepts(key: str, middle: str) -> None:
    assert judge({"key": key}, f"  {styled(middle)}\n") == Verdict(style=True, fact=True)


@pytest.mark.parametrize(
    ("key", "middle"),
    [
        ("41 days", "You have 14 days."),
        ("41 days", "You have 141 days."),
        ("41 days", "You have 1.41 days."),
        ("6 working days", "It takes 5-6 working days."),
        ("6 working days", "It takes 5–6 working days."),
        ("41 days", "You have 41 daysworth."),
        ("41 days", "You have 41, and the days are long."),
        ("7:20", "We open at 17:20."),
        ("7:20", "We open at 7:205."),
        ("force 4", "Our limit is force 4.5 today."),
        ("9051", "Call 9051-2."),
        ("violet", "They are ultraviolet."),
        ("KELP7", "Use KELP 7."),
    ],
)
def test_judge_refuses_a_wrong_fact(key: str, middle: str) -> None:
    verdict = judge({"key": key}, styled(middle))
    assert verdict == Verdict(style=True, fact=False)
    assert not verdict.right


@pytest.mark.parametrize(
    "answer",
    [
        "You have 41 days.",
        f"{OPENING} You have 41 days.",
        f"You have 41 days. {SIGN_OFF}",
        f"Hello! {styled('41 days.')}",
    ],
)
def test_judge_refuses_a_missing_style(answer: str) -> None:
    verdict = judge({"key": "41 days"}, answer)
    assert verdict == Verdict(style=False, fact=True)
    assert not verdict.right


def test_the_handbook_holds_every_fact_once() -> None:
    text = "\n".join(file.read_text(encoding="utf-8") for file in HANDBOOK.glob("*.md"))
    for key in {row["key"] for row in EVAL + unseen()}:
        assert len(re.findall(rf"(?<!\w){re.escape(key)}(?!\w)", text, re.IGNORECASE)) == 1, key


def test_unseen_facts_are_in_no_row() -> None:
    rows = " ".join(f"{row['question']} {row['answer']}" for row in TRAIN + EVAL).lower()
    assert len(unseen()) == 74
    assert not {row["topic"] for row in unseen()} & KEYS.keys()
    for row in unseen():
        assert row["key"].lower() not in rows
        assert judge(row, row["answer"]).right
