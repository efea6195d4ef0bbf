"""What each row of a table says, for the checks."""

from __future__ import annotations

from typing import Any

import pytest

from peft_nb.data import RowProblem
from peft_nb.data.detection import detect
from peft_nb.data.quality.reading import Reading, read, trouble
from tests.templates import CHAT

CALL = {"id": "a", "type": "function", "function": {"name": "find", "arguments": {"parcel": 7}}}


def reading(row: dict[str, Any], format: str = "auto") -> Reading:
    return read(row, detect([row], format))


def test_a_conversation_is_asked_up_to_its_last_answer() -> None:
    found = reading({"messages": [*CHAT, {"role": "user", "content": "thanks"}]})
    assert found.parts == tuple(turn["content"] for turn in CHAT)
    assert found.prompt == "hello\nAhoy there!\nWhere is my parcel?"
    assert found.answer == "It is on its way."
    assert found.roles == ("user", "assistant", "user", "assistant", "user")


def test_calls_of_tools_are_said_too() -> None:
    turns = [CHAT[0], {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    assert '"find"' in reading({"messages": turns}).answer


def test_texts_labels_and_pairs() -> None:
    assert reading({"text": "hello"}) == Reading(("hello",))
    labelled = reading({"text": "hello", "label": ["b", "a"]}, "text_label")
    assert (labelled.prompt, labelled.answer, labelled.labels) == ("hello", "a\nb", ("b", "a"))
    pair = reading({"prompt": "hello", "chosen": "Ahoy!", "rejected": "No."})
    assert (pair.text, pair.prompt) == ("hello\nAhoy!\nNo.", "")


USER, ODD = {"role": "user", "content": "hello"}, {"role": "wizard", "content": "hello"}


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        (None, "empty"),
        ("  ", "empty"),
        ([], "empty"),
        ([{"role": "user", "content": " "}, CHAT[1]], "empty"),
        ("hello", "malformed"),
        ([ODD, CHAT[1]], "malformed"),
        ([CHAT[1], USER], "roles"),
        ([USER], "nothing"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_of_one_kind(messages: Any, kind: str) -> None:
    layout, row = detect([{"messages": CHAT}]), {"messages": messages}
    with pytest.raises(RowProblem):
        read(row, layout)
    assert trouble(row, layout) == kind


def test_a_pair_of_equal_answers_teaches_nothing() -> None:
    row = {"prompt": "hello", "chosen": "Ahoy!", "rejected": "Ahoy!"}
    assert trouble(row, detect([{**row, "rejected": "No."}])) == "nothing"
