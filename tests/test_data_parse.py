from __future__ import annotations

import json
from typing import Any

import pytest

from peft_nb.data import RowProblem
from peft_nb.data.parse import (
    answer,
    answers,
    asked,
    choices,
    history,
    is_label,
    is_ranked,
    labels,
    numbers,
    rated_as,
    rating,
    ratings,
    said,
    tools,
)

FUNCTION = {"name": "weather", "description": "What it is like", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}


def refused(parse: Any, cell: Any) -> str:
    with pytest.raises(RowProblem) as caught:
        parse(cell)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "cell", [[TOOL], [FUNCTION], FUNCTION, (TOOL,), json.dumps([FUNCTION]), str([TOOL]), [json.dumps(FUNCTION)]]
)
def test_tools_are_read_as_templates_take_them(cell: Any) -> None:
    assert tools(cell) == [TOOL]


@pytest.mark.parametrize("cell", ["weather", 7, [7], [{"description": "x"}]])
def test_what_defines_no_tool_is_refused(cell: Any) -> None:
    assert refused(tools, cell).startswith("holds no definitions of tools; write a list such as")


@pytest.mark.parametrize(
    "cell",
    [
        [["Hello?", "Yes."]],
        '[["Hello?", "Yes."]]',
        [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}],
        [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Yes."}],
    ],
)
def test_history_is_pairs_or_messages(cell: Any) -> None:
    assert [(turn["role"], turn["content"]) for turn in history(cell)] == [("user", "Hello?"), ("assistant", "Yes.")]


def test_history_of_text_stands_before_the_question() -> None:
    assert history("He said hello.") == [{"role": "user", "content": "He said hello."}]
    assert history([]) == []
    assert refused(history, [["one"], ["two"]]).startswith("holds a list that is none of pairs; write [[question, ")


@pytest.mark.parametrize(
    "cell",
    [
        ["Rome", "Oslo"],
        "['Rome' 'Oslo']",
        {"text": ["Rome", "Oslo"], "label": ["A", "B"]},
        {"A": "Rome", "B": "Oslo"},
        [{"label": "A", "text": "Rome"}, {"label": "B", "text": "Oslo"}],
    ],
)
def test_choices_have_letters(cell: Any) -> None:
    assert choices(cell) == {"A": "Rome", "B": "Oslo"}


def test_choices_of_text_are_written_as_they_are() -> None:
    assert choices("Rome or Oslo") == {"": "Rome or Oslo"}
    assert "holds 2 choices with 1 labels" in refused(choices, {"text": ["a", "b"], "label": ["A"]})


def test_what_is_said_is_text_unless_it_is_a_conversation() -> None:
    assert said("user")('[{"role": "chef"}]') == [{"role": "user", "content": '[{"role": "chef"}]'}]
    assert said("user")('[{"role": "user", "content": "a"}]') == [{"role": "user", "content": "a"}]
    assert refused(said("user"), [{"role": "chef", "content": "x"}]).startswith("message 0 has the role 'chef'")


def test_an_answer_in_text_is_not_taken_apart() -> None:
    assert answer('["38", "39"]') == '["38", "39"]'
    assert answer({"text": ["38", "39"]}) == answer(["38", "39"]) == "38"


def test_labels_are_names_or_whole_numbers() -> None:
    assert labels("['a' 'b']") == ("a", "b")
    assert labels(2.0) == ("2",)
    assert not is_label(2.5)


# ---- preferences -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    [
        "hi",
        [{"role": "user", "content": "hi"}],
        {"role": "user", "content": "hi"},
        {"messages": [{"role": "user", "content": "hi"}]},
        str({"messages": [{"role": "user", "content": "hi"}]}),
        "\n\nHuman: hi\n\nAssistant:",
    ],
)
def test_what_was_asked_is_read(cell: Any) -> None:
    assert asked(cell) == [{"role": "user", "content": "hi"}]


def test_answers_come_with_the_scores_that_lie_with_them() -> None:
    told = [{"role": "assistant", "content": "yo"}]
    assert answers(["yo", told, told[0]]) == [(told, None)] * 3
    assert answers([{"response": "yo", "overall_score": "8.5"}, {"text": "yo", "rank": 2}]) == [(told, 8.5), (told, -2)]
    assert answers(str([{"answer": "yo", "score": "N/A"}])) == [(told, None)]
    assert refused(answers, "yo") == "holds a str, not a list of answers; write a list of at least two"
    assert refused(answers, [{"score": 1}]).startswith(
        "holds an answer without its text; name the text one of response,"
    )


def test_scores_are_numbers() -> None:
    assert numbers("[1, 2.5, null]") == [1.0, 2.5, None]
    assert numbers(["3", True]) == [3.0, 1.0]
    assert refused(numbers, 4) == "holds a int, not a list of numbers; write one number an answer"
    assert refused(numbers, [1, "good"]) == "holds 'good', not a number; write one number an answer"
    assert refused(numbers, [float("nan")]) == "holds 'nan', not a number; write one number an answer"


def test_ranked_answers_are_known_by_their_scores() -> None:
    assert is_ranked({"responses": ["a", "b"], "ranks": [1, 2]})
    assert is_ranked({"responses": [{"text": "a", "score": 1}, {"text": "b", "score": 2}]})
    assert not is_ranked({"responses": ["a", "b"], "scores": 3})
    assert not is_ranked({"responses": [{"text": "a", "score": 1}, {"text": "b"}]})
    assert not is_ranked({"responses": []})


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        *((True, "true"), (1.0, "1"), ("1.0", "1"), ("-1", "-1"), (-1.0, "-1"), ("+1", "1"), (0.5, "0.5")),
        *(("Thumbs-Up", "thumbs up"), ("THUMBS_DOWN", "thumbs down"), (" yes ", "yes"), ("👍🏽", "👍")),
    ],
)
def test_ratings_are_words(cell: Any, word: str) -> None:
    assert rated_as(cell) == word


def test_a_rating_means_good_or_bad() -> None:
    assert [rating(cell) for cell in (True, 1, "👍", "Yes", False, -1, 0.0, "thumbs_down")] == [True] * 4 + [False] * 4
    assert rating("5", {"1": False, "5": True})
    assert refused(rating, "so-so") == (
        "holds 'so-so', which says neither good nor bad; "
        "write true for a good answer and false for a bad one, or drop the row"
    )


def test_a_column_rates_where_it_holds_both_good_and_bad() -> None:
    assert ratings([5, 1, 5]) == {"1": False, "5": True}
    assert (ratings([True, 0]) or {})["yes"]
    assert ratings([1, 1]) is None
    assert ratings([1, 1], told=True)
    assert [ratings(cells, told=True) for cells in ([], [4, 5], ["good", "so-so"])] == [None] * 3
