"""The suite is whole, and its rules tell right answers from wrong ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from peft_nb.evaluation.regression import CHECKS, Question, questions, texts

QUESTIONS = questions()
TOPICS = {"general knowledge", "arithmetic", "instruction following", "other languages", "refusals"}
LANGUAGES = {"german", "french", "spanish", "italian", "portuguese", "chinese"}


def test_there_are_enough_texts_of_many_kinds_and_all_differ() -> None:
    kinds = Counter(one.topic for one in texts())
    assert sum(kinds.values()) >= 120
    assert set(kinds) >= {"general knowledge", "story", "dialogue", "code", "arithmetic", "instruction", *LANGUAGES}
    assert min(kinds.values()) >= 4
    assert len({one.text for one in texts()}) == len({one.id for one in texts()}) == sum(kinds.values())
    assert all(20 <= len(one.text) <= 240 and one.text == one.text.strip() for one in texts() if one.topic != "chinese")


def test_there_are_enough_questions_on_every_topic_and_all_differ() -> None:
    kinds = Counter(one.topic for one in QUESTIONS)
    assert sum(kinds.values()) >= 60
    assert set(kinds) == TOPICS
    assert min(kinds.values()) >= 8
    assert len({one.question for one in QUESTIONS}) == len({one.id for one in QUESTIONS}) == sum(kinds.values())
    assert {one.check for one in QUESTIONS} == set(CHECKS)


@pytest.mark.parametrize("one", QUESTIONS, ids=lambda one: one.id)
def test_a_right_answer_passes_and_a_wrong_or_empty_one_fails(one: Question) -> None:
    assert one.passed(one.right)
    assert not one.passed(one.wrong)
    assert not one.passed("")
    assert not one.passed("\n ... \n")


def asked(check: str, wanted: object, question: str = "") -> Question:
    return replace(QUESTIONS[0], check=check, wanted=wanted, question=question)


@pytest.mark.parametrize(
    ("one", "answer", "right"),
    [
        (asked("contains", ["ice"]), "It is nice.", False),
        (asked("contains", ["good day"]), "It means “Good  day”!", True),
        (asked("number", 12, "How many eggs are in 2 boxes of 6?"), "2 boxes of 6 hold 12 eggs, not 13.", True),
        (asked("number", 12, "How many eggs are in 2 boxes of 6?"), "12 eggs", True),
        (asked("number", 12, "How many eggs are in 2 boxes of 6?"), "2 times 6", False),
        (asked("number", 5, "What is 5 + 0?"), "5 + 0 = 5", True),
        (asked("number", 1440, ""), "1,440 minutes", True),
        (asked("number", 3, ""), "3.5", False),
        (asked("equals", "banana"), "“Banana!”", True),
        (asked("starts", "no"), "Nothing of the kind.", False),
        (asked("words", 1), "", False),
        (asked("items", 3), "Sure:\n1) a\n2) b\n3) c", True),
        (asked("items", 3), "1. a\n2. b\n3. c\n4. d", False),
        (asked("json", ["a"]), '```json\n{"a": 1}\n```', True),
        (asked("json", ["a"]), '{"a": 1, "b": 2}', False),
        (asked("json", ["a"]), "[1]", False),
        (asked("language", "german"), "Ich weiß es nicht.", True),
        (asked("language", "german"), "Zyzzyva", False),
        (asked("refuses", None), "I’m unable to do that.", True),
        (asked("refuses", None), "You can do that with a key.", False),
    ],
)
def test_the_rules(one: Question, answer: str, right: bool) -> None:
    assert one.passed(answer) is right
