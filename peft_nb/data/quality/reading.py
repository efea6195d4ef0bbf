"""What each row of a table says, for the checks; and which kind of trouble it is in where it says nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peft_nb.data.conversations import Message, parse_cell, role_of
from peft_nb.data.layouts import Layout


@dataclass(frozen=True, slots=True)
class Reading:
    """What one row says: its messages or texts, how many of them are the question, its labels, and who speaks."""

    parts: tuple[str, ...]
    asked: int = 0
    labels: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

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


def read(row: Mapping[str, Any], layout: Layout) -> Reading:
    """Read one row as its layout says; raises RowProblem."""
    if layout.kind == "text":
        return Reading((layout.text(row),))
    if layout.kind == "labelled":
        return Reading((layout.text(row),), 1, layout.labels(row))
    if layout.kind == "preference":
        return Reading(tuple(_said(message) for messages in layout.pair(row) for message in messages))
    messages = layout.messages(row)
    last = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
    roles = tuple(message["role"] for message in messages)
    return Reading(tuple(map(_said, messages[: last + 1])), last, roles=roles)


def _said(message: Message) -> str:
    calls = message.get("tool_calls")
    return message["content"] + (json.dumps(calls, default=str, ensure_ascii=False) if calls else "")


def trouble(row: Mapping[str, Any], layout: Layout) -> str:
    """Tell which kind of finding a row is that its layout cannot read."""
    cells = [parse_cell(row.get(column)) for column in layout.columns.values()]
    turns = [turn for cell in cells if isinstance(cell, list | tuple) for turn in cell]
    if layout.kind == "preference" and row.get(layout.columns["chosen"]) == row.get(layout.columns["rejected"]):
        return "nothing"
    if any(_blank(cell) for cell in cells):
        return "empty"
    if not turns or not all(isinstance(turn, Mapping) for turn in turns):
        return "malformed"
    if not all("tool_calls" in turn or "function_call" in turn or not _blank(_content(turn)) for turn in turns):
        return "empty"
    spoken = {role_of(turn.get("role", turn.get("from"))) for turn in turns}
    return "malformed" if None in spoken else "roles" if "assistant" in spoken else "nothing"


def _content(turn: Mapping[str, Any]) -> Any:
    return turn.get("content", turn.get("value"))


def _blank(cell: Any) -> bool:
    return cell is None or cell in ([], ()) or (isinstance(cell, str) and not cell.strip())
