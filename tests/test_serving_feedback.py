from __future__ import annotations

from typing import Any

import pytest

from peft_nb.serving.feedback import KEPT, Answers, Said, checked
from peft_nb.serving.requests import RefusedError
from peft_nb.store import Store
from peft_nb.store.votes import feedback


def test_thumbs_and_edits_are_kept_with_the_run_that_answered(store: Store) -> None:
    answers = Answers(store.vote)
    talk = [{"role": "user", "content": "Hi"}]
    longer = [*talk, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Bye"}]
    answers.add("a", {"messages": talk}, " Hello. ", "lora-1")
    answers.add("b", {"messages": longer}, "Go.", "lora-2")
    answers.tell(Said("a", True, None))
    answers.tell(Said("b", False, "Goodbye."))
    answers.tell(Said("a", False, "Hello."))  # the same text again is no edit
    told = ("prompt", "answer", "thumb", "edited", "run")
    rows = {row["run"]: tuple(row[name] for name in told) for row in feedback(store.votes())}
    assert rows == {
        "lora-1": ("Hi", "Hello.", False, None, "lora-1"),
        "lora-2": (longer, "Go.", False, "Goodbye.", "lora-2"),
    }


def test_what_is_not_known_any_more_and_the_base_are_refused(store: Store) -> None:
    answers = Answers(store.vote)
    answers.add("first", {"prompt": "Hi"}, "Ho", "lora-1")
    answers.add("base", {"prompt": "Hi"}, "Ho", None)
    answers.add("several", {"prompt": "Hi", "n": 2}, "Ho\nHu", "lora-1")
    for number in range(KEPT - 1):
        answers.add(f"{number}", {"prompt": "Hi"}, "Ho", "lora-1")
    for id, status, why in (
        ("first", 404, "no answer 'first'"),
        ("several", 404, "none of several"),
        ("base", 400, "base"),
    ):
        with pytest.raises(RefusedError, match=why) as refused:
            answers.tell(Said(id, True, None))
        assert refused.value.status == status
    with pytest.raises(RefusedError):
        Answers(None).tell(Said("0", True, None))
    assert store.votes() == []


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ([], "the request is no JSON object"),
        ({"id": "a", "thumbs": "up"}, "thumbs: not known here; did you mean 'thumb'"),
        ({"thumb": "up"}, "id: write the id of an answer"),
        ({"id": "a", "thumb": "yes"}, "thumb: write up or down"),
        ({"id": "a", "thumb": []}, "thumb: write up or down"),
        ({"id": "a", "edit": " "}, "edit: write what the answer should have been"),
        ({"id": "a"}, "nothing is said of the answer"),
    ],
)
def test_what_feedback_does_not_say_is_refused(body: Any, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        checked(body)


def test_feedback_is_read() -> None:
    assert checked({"id": "a", "thumb": "down", "edit": "Better."}) == Said("a", False, "Better.")
