from __future__ import annotations

from peft_nb.documents import prompt
from peft_nb.evaluation.documents import asked, measured

QUESTION = [{"role": "user", "content": "Where?"}]
LAID = {"texts": ["Not here.", "Here."], "chunks": [7, 3], "golden": 3}


def test_the_same_question_is_asked_in_three_ways() -> None:
    messages = prompt.put(QUESTION, LAID["texts"])
    assert asked(messages, LAID, "found") == messages
    assert asked(messages, LAID, "closed") == QUESTION
    assert asked(messages, LAID, "lacking") == prompt.put(QUESTION, ["Not here."])


def test_answers_are_compared_without_their_citations() -> None:
    found = measured(["Here [2].", "it is here", "there"], ["here", "Here [1]", "Here"], [LAID] * 3)
    assert (found["exact_match"], found["contained"]) == (1 / 3, 2 / 3)


def test_citations_are_right_where_they_name_the_golden_chunk() -> None:
    lacking = LAID | {"chunks": [7, 8]}
    found = measured(["a [2]", "a [1] [2] [9]", "a", "a [1]"], ["b"] * 4, [LAID, LAID, LAID, lacking])
    assert found["citation_precision"] == 2 / 5
    assert found["citation_recall"] == 2 / 3
    none = measured(["a"], ["b"], [LAID])
    assert (none["citation_precision"], none["citation_recall"]) == (None, None)
