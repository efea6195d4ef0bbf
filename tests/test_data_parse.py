from __future__ import annotations

import json
from typing import Any

import pytest

from peft_nb.data import RowProblem
from peft_nb.data.parse import answer, choices, history, is_label, labels, said, tools

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
