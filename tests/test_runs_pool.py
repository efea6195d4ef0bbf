from __future__ import annotations

from typing import Any

import pytest

from peft_nb import Run
from peft_nb.data import detection
from peft_nb.errors import DataError
from peft_nb.runs.pool import plain, prompt_of, prompts, refuse, written

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Bye"}]


@pytest.mark.parametrize(
    ("pool", "found"),
    [
        (["a", " ", "b"], ["a", "b"]),
        ([{"text": "a"}, {"text": "b"}], ["a", "b"]),
        ([{"text": "a", "label": "x"}], ["a"]),
        ([{"question": "a"}], ["a"]),
        ([{"question": "a", "answer": "x"}], ["a"]),
        ([{"messages": [*TALK, {"role": "assistant", "content": "Ho"}]}], [TALK]),
    ],
)
def test_what_a_pool_asks_is_read(pool: Any, found: list[Any], finished: Run) -> None:
    assert prompts(pool, finished, {}) == found
    refuse(finished)


def test_other_rows_are_no_pool(finished: Run) -> None:
    with pytest.raises(DataError, match="a pool holds texts or prompts; name their column text or prompt"):
        prompts([{"prompt": "a", "chosen": "b", "rejected": "c"}], finished, {})


@pytest.mark.parametrize(
    ("layout", "columns"),
    [
        ("text_label", {"text": "body", "label": "kind"}),
        ("question_answer", {"question": "ask", "answer": "reply"}),
        ("instruction", {}),
        ("prompt_completion", {}),
        ("messages", {"messages": "chat"}),
        ("sharegpt", {}),
        ("text", {}),
        ("preference", {"prompt": "q"}),
    ],
)
def test_a_labelled_row_is_of_the_layout_beside_which_it_stands(layout: str, columns: dict[str, str]) -> None:
    row = written("What?", "That.", layout, columns)
    name = "prompt_completion" if layout == "preference" else layout
    roles = columns if layout != "preference" else {}
    found = detection.detect([row], name, {role: column for role, column in roles.items() if column in row})
    assert found.name == name
    if found.kind == "labelled":
        assert (found.text(row), found.labels(row)) == ("What?", ("That.",))
    elif found.kind == "text":
        assert found.text(row) == "What? That."
    else:
        assert [one["content"] for one in found.messages(row)] == ["What?", "That."]
        assert prompt_of(row, found) == "What?"


def test_a_conversation_stays_one() -> None:
    for layout in ("messages", "prompt_completion"):
        row = written(TALK, "Ho", layout, {})
        found = detection.detect([row], layout)
        assert [one["content"] for one in found.messages(row)] == ["Hi", "Yes?", "Bye", "Ho"]
        assert prompt_of(row, found) == TALK


def test_texts_are_compared_without_what_tokenizers_change() -> None:
    assert plain("I can't pay!") == plain("i can ' t pay !")
