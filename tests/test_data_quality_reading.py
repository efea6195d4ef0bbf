"""What each row of a table says, for the checks."""

from __future__ import annotations

from typing import Any

import pytest

from peft_nb.data import RowProblem
from peft_nb.data.detection import detect
from peft_nb.data.quality.reading import Reading, read, same, trouble, turns
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
    assert (pair.text, pair.prompt, pair.roles) == ("hello\nAhoy!\nNo.", "hello", ("user", "assistant"))
    assert pair.pairs == (("Ahoy!", "No."),)
    assert pair.sequences == ["hello\nAhoy!", "hello\nNo."]


def test_a_rated_answer_is_labelled_and_is_no_pair() -> None:
    found = reading({"prompt": "hello", "completion": "Ahoy!", "label": False}, "rated")
    assert found == Reading(("hello", "Ahoy!"), 1, ("undesirable",), ("user", "assistant"), ("Ahoy!",))
    assert (found.prompt, found.pairs, found.sequences) == ("hello", (), ["hello\nAhoy!"])


def test_the_messages_of_both_sides_of_a_pair() -> None:
    row = {"prompt": "hello", "chosen": "Ahoy!", "rejected": "No."}
    assert [message["content"] for message in turns(row, detect([row]))] == ["hello", "Ahoy!", "No."]


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


def test_a_pair_of_equal_answers_is_identical() -> None:
    row = {"prompt": "hello", "chosen": "Ahoy!", "rejected": "Ahoy!"}
    layout = detect([{**row, "rejected": "No."}])
    assert trouble(row, layout) == "identical"
    assert trouble({**row, "chosen": " ", "rejected": " "}, layout) == "empty"


def test_texts_are_the_same_whatever_their_case_spaces_and_forms() -> None:
    assert same(" Caf\u0065\u0301  AU lait ") == "café au lait"
    assert same("two") != same("too")
