"""What the parsed cells of a row say together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_nb.data import RowProblem, turns
from peft_nb.data.conversations import Message

ASKED = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


def answer(words: str) -> list[Message]:
    return [{"role": "assistant", "content": words}]


def answers(*words: str) -> list[tuple[list[Message], None]]:
    return [(answer(one), None) for one in words]


def said(pairs: list[turns.Pair]) -> list[tuple[str, str]]:
    return [(chosen[0]["content"], rejected[0]["content"]) for _, chosen, rejected in pairs]


def test_a_question_is_asked_with_all_that_belongs_to_it() -> None:
    cells = {
        **{"context": "Oslo is in Norway.", "question": "Where?", "answer": "1", "system": "Be brief."},
        "choices": {"A": "Rome", "B": "Norway"},
        "history": [*answer("Hello."), {"role": "user", "content": "Well:"}],
        "tools": [TOOL],
    }
    assert turns.answered(cells, "context", "question", answer="answer") == [
        {"role": "system", "content": "Be brief.", "tools": [TOOL]},
        *answer("Hello."),
        {"role": "user", "content": "Well:\n\nOslo is in Norway.\n\nWhere?\n\nA. Rome\nB. Norway"},
        *answer("B"),
    ]
    with pytest.raises(RowProblem, match="the answer 7 is none of 2 choices; count them from 0"):
        turns.answered(cells | {"answer": "7"}, "question", answer="answer")


def test_a_conversation_is_taken_as_it_stands_and_a_completion_begins_with_an_answer() -> None:
    whole = [ASKED, *answer("yo")]
    assert turns.conversation({"messages": whole, "system": "s"}) == [{"role": "system", "content": "s"}, *whole]
    assert turns.completed({"prompt": [ASKED], "completion": answer("yo")}) == whole
    with pytest.raises(RowProblem, match="the completion does not begin with the assistant's answer"):
        turns.completed({"prompt": [ASKED], "completion": whole})


def test_a_pair_has_its_prompt_with_context_input_and_tools() -> None:
    cells: dict[str, Any] = {"prompt": [ASKED], "chosen": answer("yo"), "rejected": answer("no"), "tools": [TOOL]}
    (found,) = turns.pair(cells | {"context": "Oslo.", "input": "Rome"})
    assert found == ([{"role": "user", "content": "Oslo.\n\nhi\n\nRome", "tools": [TOOL]}], answer("yo"), answer("no"))
    assert ASKED == {"role": "user", "content": "hi"}
    (found,) = turns.pair({"context": "Oslo?", "chosen": answer("yo"), "rejected": answer("no")})
    assert found[0] == [{"role": "user", "content": "Oslo?"}]


def test_ranked_answers_give_one_pair_or_all_of_them() -> None:
    cells = {"prompt": [ASKED], "responses": answers("bad", "good", "good too", "best"), "scores": [1, 2, 2.0, 3]}
    ranks = {**cells, "scores": [], "ranks": [3, 2, 2, 1]}
    within = {**cells, "scores": [], "responses": list(zip(map(answer, ("no", "yo")), (-2, -1), strict=True))}
    every = [("best", "good"), ("best", "good too"), ("best", "bad"), ("good", "bad"), ("good too", "bad")]
    for one in (cells, ranks):
        assert said(turns.ranked(one)) == [("best", "bad")]
        assert said(turns.ranked(one, every=True)) == every
        assert {prompt[0]["content"] for prompt, _, _ in turns.ranked(one, every=True)} == {"hi"}
    assert said(turns.ranked(within)) == said(turns.ranked(within, every=True)) == [("yo", "no")]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2) | st.none()), max_size=7), st.booleans())
def test_no_answer_is_chosen_over_one_with_a_score_as_high(given: list[tuple[int, int | None]], every: bool) -> None:
    scored = [(str(word), score) for word, score in given if score is not None]
    wanted = {(one, other) for one, high in scored for other, low in scored if high > low and one != other}
    cells = {"prompt": [ASKED], "responses": answers(*(str(word) for word, _ in given))}
    try:
        pairs = said(turns.ranked({**cells, "scores": [score for _, score in given]}, every=every))
    except RowProblem:
        pairs = []
    assert set(pairs) <= wanted
    if every:
        assert set(pairs) == wanted
    elif pairs:
        (one, other), scores = pairs[0], [score for _, score in scored]
        assert (one, max(scores)) in scored
        assert (other, min(scores)) in scored
