from __future__ import annotations

import pytest

from peft_nb.data import RowProblem
from peft_nb.documents import prompt

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Where is it?"},
]


def test_documents_stand_numbered_before_what_was_said_last() -> None:
    laid = prompt.put(TALK, ["Here.", "There."])
    assert laid[:-1] == TALK[:-1]
    assert laid[-1] == {"role": "user", "content": "[1] Here.\n\n[2] There.\n\nWhere is it?"}
    assert prompt.taken_out(laid, ["Here.", "There."]) == TALK
    assert prompt.put(TALK, []) == TALK
    assert TALK[-1]["content"] == "Where is it?"


def test_an_answer_stays_behind_its_question() -> None:
    answered = [*TALK, {"role": "assistant", "content": "Here"}]
    assert prompt.put(answered, ["a"])[-2]["content"] == "[1] a\n\nWhere is it?"
    assert prompt.question(answered) == "Where is it?"


def test_without_a_question_there_is_no_place_for_documents() -> None:
    with pytest.raises(RowProblem, match="has no question"):
        prompt.put(TALK[:1], ["a"])


def test_citations_are_read_and_written() -> None:
    assert prompt.cited("As [2] and [1] say, see [2].") == [2, 1]
    answered = [*TALK, {"role": "assistant", "content": "Here [golden]."}]
    assert prompt.citing(answered, 3)[-1]["content"] == "Here [3]."
    assert prompt.citing(answered, None)[-1]["content"] == "Here."
    assert prompt.citing(TALK, 3) == TALK
