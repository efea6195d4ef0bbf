"""What each row of a table says, for the checks; and which kind of trouble it is in where it says nothing."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from peft_nb.data import RowProblem
from peft_nb.data.conversations import Message, parse_cell, role_of
from peft_nb.data.layouts import Layout


@dataclass(frozen=True, slots=True)
class Reading:
    """What one row says: its messages or texts, how many of them are the question, its labels, and who speaks.

    Of preferences ``answers`` are the answers that are compared or rated: of pairs chosen and rejected by turns.
    """

    parts: tuple[str, ...]
    asked: int = 0
    labels: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(self.parts)

    @property
    def prompt(self) -> str:
        """What is asked; empty where nothing is."""
        return "\n".join(self.parts[: self.asked])

    @property
    def answer(self) -> str:
        """What has to be answered."""
        return "\n".join(sorted(self.labels) or self.parts[self.asked :])

    @property
    def sequences(self) -> list[str]:
        """What the model is given, one text or one for each answer of a pair."""
        return [f"{self.prompt}\n{answer}" for answer in self.answers] if self.pairs else [self.text]

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Chosen and rejected answers; none where answers are not compared."""
        return () if self.labels else tuple(zip(self.answers[::2], self.answers[1::2], strict=True))


def read(row: Mapping[str, Any], layout: Layout) -> Reading:
    """Read one row as its layout says; raises RowProblem."""
    if layout.kind == "text":
        return Reading((layout.text(row),))
    if layout.kind == "labelled":
        return Reading((layout.text(row),), 1, layout.labels(row))
    if layout.kind == "preference":
        pairs = layout.pairs(row)
        prompt, chosen, _ = pairs[0]
        answers = tuple("\n".join(map(_said, answer)) for _, *both in pairs for answer in both)
        roles = tuple(message["role"] for message in [*prompt, *chosen])
        return Reading((*map(_said, prompt), *dict.fromkeys(answers)), len(prompt), (), roles, answers)
    if layout.kind == "rated":
        messages, good = layout.rated(row)
        roles = tuple(message["role"] for message in messages)
        asked = max((place for place, role in enumerate(roles) if role != "assistant"), default=-1) + 1
        parts = tuple(map(_said, messages))
        return Reading(parts, asked, (RATINGS[good],), roles, ("\n".join(parts[asked:]),))
    messages = layout.messages(row)
    if layout.kind == "prompt":
        return Reading(tuple(map(_said, messages)), len(messages), roles=tuple(turn["role"] for turn in messages))
    last = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
    roles = tuple(message["role"] for message in messages)
    return Reading(tuple(map(_said, messages[: last + 1])), last, roles=roles)


RATINGS = {True: "desirable", False: "undesirable"}
"""What answers are rated as, in the words of KTO."""


def same(text: str) -> str:
    """Equal for texts that differ only in case, white space or the form of their characters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def turns(row: Mapping[str, Any], layout: Layout) -> list[Message]:
    """All messages of a row that its layout can read, of pairs those of both sides."""
    if layout.kind == "preference":
        return [message for pair in layout.pairs(row) for side in pair for message in side]
    return layout.rated(row)[0] if layout.kind == "rated" else layout.messages(row)


def _said(message: Message) -> str:
    calls = message.get("tool_calls")
    return message["content"] + (json.dumps(calls, default=str, ensure_ascii=False) if calls else "")


def trouble(row: Mapping[str, Any], layout: Layout) -> str:
    """Tell which kind of finding a row is that its layout cannot read."""
    cells = [parse_cell(row.get(column)) for column in layout.columns.values()]
    said = [turn for cell in cells if isinstance(cell, list | tuple) for turn in cell]
    if any(_blank(cell) for cell in cells):
        return "empty"
    if "chosen" in layout.columns and row.get(layout.columns["chosen"]) == row.get(layout.columns["rejected"]):
        return "identical"
    with suppress(RowProblem):
        if len(set(layout.scores(row))) == 1:
            return "tied"
    if not said or not all(isinstance(turn, Mapping) for turn in said):
        return "malformed"
    if not all("tool_calls" in turn or "function_call" in turn or not _blank(_content(turn)) for turn in said):
        return "empty"
    spoken = {role_of(turn.get("role", turn.get("from"))) for turn in said}
    return "malformed" if None in spoken else "roles" if "assistant" in spoken else "nothing"


def _content(turn: Mapping[str, Any]) -> Any:
    return turn.get("content", turn.get("value"))


def _blank(cell: Any) -> bool:
    return cell is None or cell in ([], ()) or (isinstance(cell, str) and not cell.strip())
