from __future__ import annotations

from pathlib import Path
from typing import Any

from peft_nb.data.detection import detect
from peft_nb.data.prompts import BEGUN, KEPT, Asked, load, of_rows, save


def asked(rows: list[dict[str, Any]]) -> list[Asked]:
    return of_rows(rows, detect(rows), range(len(rows)))


def test_a_question_is_a_text_and_a_conversation_ends_before_its_last_answer() -> None:
    talk = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
    ]
    more = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "That is all."}]
    rows = [{"messages": talk[1:]}, {"messages": talk + more}, {"messages": talk + more[:1]}]
    assert asked(rows) == [
        Asked("Hi", "Hello."),
        Asked(talk + more[:1], "That is all."),
        Asked(talk[:2], "Hello."),
    ]


def test_a_plain_text_is_begun_and_its_white_space_kept() -> None:
    words = [f"word{number}" for number in range(100)]
    ((one),) = asked([{"text": "\n".join(words)}])
    assert one.prompt == "\n".join(words[:BEGUN])
    assert one.reference == "\n".join(words[BEGUN : 3 * BEGUN])
    assert asked([{"text": "short"}]) == [Asked("short", "")]


def test_a_few_of_many_rows_are_taken_from_all_over() -> None:
    rows = [{"question": str(number), "answer": "a"} for number in range(100)]
    found = [int(str(one.prompt)) for one in asked(rows)]
    assert len(found) == KEPT
    assert (found[0], found[-1] > 80) == (0, True)
    assert of_rows(rows, detect(rows), [7, 9]) == [Asked("7", "a"), Asked("9", "a")]
    assert of_rows(rows, detect(rows), []) == []


def test_what_was_kept_is_read_back_whatever_it_holds(tmp_path: Path) -> None:
    assert load(tmp_path) == []
    some = [Asked("\ud800 مرحبا 👩🏽‍🚀", "a"), Asked([{"role": "user", "content": "?"}])]
    save(tmp_path, some)
    assert load(tmp_path) == some
