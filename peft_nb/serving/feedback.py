"""What clients say of answers: a thumb, or what an answer should have been.

Of the last answers the texts are kept in memory for it; what was said of one goes into the store, with its run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from peft_nb.data.prompts import Prompt
from peft_nb.errors import nearest
from peft_nb.serving.requests import RefusedError
from peft_nb.store.votes import EDIT

PATH = "/v1/feedback"
KEPT = 1_000  # answers that can be told of
FIELDS = ("id", "thumb", "edit")
THUMBS = {"up": True, "down": False}

Vote = Callable[[Prompt, Mapping[str, str], str | None], object]
"""Keeps a vote, as :meth:`peft_nb.store.Store.vote` does."""


@dataclass(frozen=True)
class Answer:
    """An answer that can be told of: what was asked, what was said, and by which run; None for the base model."""

    prompt: Prompt
    text: str
    run: str | None


@dataclass(frozen=True)
class Said:
    """What a client says of an answer: a thumb up or down, a better text, or both."""

    id: str
    thumb: bool | None
    edit: str | None


class Answers:
    """The last answers, by the ids that clients were given.

    Parameters
    ----------
    vote : callable or None
        What keeps feedback.
    """

    def __init__(self, vote: Vote | None) -> None:
        self._vote = vote
        self._last: OrderedDict[str, Answer] = OrderedDict()

    def add(self, id: str, body: Mapping[str, Any], text: str, run: str | None) -> None:
        """Keep an answer, and forget the oldest; of a request for several answers none."""
        if self._vote is None or (body.get("n") or 1) > 1:
            return
        asked = body.get("messages", body.get("prompt", ""))
        alone = isinstance(asked, list) and len(asked) == 1 and asked[0].get("role") == "user"
        if alone and isinstance(asked[0].get("content"), str):
            asked = asked[0]["content"]
        self._last[id] = Answer(asked, text.strip(), run)
        while len(self._last) > KEPT:
            self._last.popitem(last=False)

    def tell(self, said: Said) -> None:
        """Keep in the store what was said of an answer.

        Raises
        ------
        RefusedError
            404 for an answer that is not known any more, 400 for one of the base model.
        """
        answer = self._last.get(said.id)
        if answer is None or self._vote is None:
            why = f"there is no answer {said.id!r}; the last {KEPT:,} can be told of, and none of several at once"
            raise RefusedError(404, why, code="answer_not_found", field="id")
        if answer.run is None:
            raise RefusedError(400, "the base model answered, and only answers of runs are rated", field="id")
        if said.thumb is not None:
            self._vote(answer.prompt, {answer.run: answer.text}, answer.run if said.thumb else None)
        if said.edit is not None and said.edit.strip() != answer.text:
            self._vote(answer.prompt, {answer.run: answer.text, EDIT: said.edit}, EDIT)


def checked(body: Any) -> Said:
    """Read feedback; RefusedError for what it does not say."""
    if not isinstance(body, dict):
        raise RefusedError(400, "the request is no JSON object")
    for field in body:
        if field not in FIELDS:
            raise RefusedError(400, f"{field}: not known here{nearest(field, FIELDS)}; leave it out", field=field)
    if not isinstance(body.get("id"), str):
        raise RefusedError(400, "id: write the id of an answer, a text", field="id")
    thumb, edit = body.get("thumb"), body.get("edit")
    if thumb is not None and not (isinstance(thumb, str) and thumb in THUMBS):
        raise RefusedError(400, "thumb: write up or down", field="thumb")
    if edit is not None and not (isinstance(edit, str) and edit.strip()):
        raise RefusedError(400, "edit: write what the answer should have been, a text", field="edit")
    if thumb is None and edit is None:
        raise RefusedError(400, "nothing is said of the answer: write thumb, edit, or both")
    return Said(body["id"], None if thumb is None else THUMBS[thumb], edit)
