"""Layouts of training data: which columns hold what, and what a row becomes: a conversation, a text, labels or a pair.

A layout is one entry of `LAYOUTS`, ours or one that a package registers; nothing else has to change when one is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from peft_nb.data import RowProblem, parse
from peft_nb.data.conversations import (
    OPENAI,
    SHAREGPT,
    Message,
    equipped,
    parse_cell,
    split_pair,
    style,
    text,
    unread,
    validated,
)
from peft_nb.data.conversations import read as read_messages
from peft_nb.errors import DataError
from peft_nb.spec.names import register_name

Kind = Literal["chat", "text", "labelled", "preference"]


@dataclass(frozen=True)
class Role:
    """One thing a layout needs, the column names that usually hold it, and how a cell is read.

    ``looks`` tells a cell of this role from one of another layout; it is false of no cell that ``parse`` can read.
    A role that ``tells`` nothing may be in any layout, and none is recognised by it. Columns named as ``lists`` says
    hold several values, also where they are written into a text cell, as in csv files.
    """

    name: str
    others: tuple[str, ...] = ()
    required: bool = True
    parse: Callable[[Any], Any] = text
    looks: Callable[[Any], bool] = lambda cell: True
    tells: bool = True
    lists: tuple[str, ...] = ()

    def read(self, cell: Any, column: str) -> Any:
        """Parse a cell of the column that plays the role."""
        if isinstance(cell, str) and column.strip().casefold() in self.lists:
            cell = parse.held(cell)
        return self.parse(cell)


@dataclass(frozen=True)
class LayoutType:
    """One kind of layout; ``write`` turns the parsed cells, by role, into messages, a text or a pair."""

    name: str
    roles: tuple[Role, ...]
    write: Callable[[dict[str, Any]], Any]
    kind: Kind = "chat"

    def readings(self, present: Sequence[str], given: Mapping[str, str]) -> list[dict[str, str]]:
        """Every way to find the roles among the columns `present`, as role to column."""
        options: list[Sequence[str | None]] = [
            columns_for(role, present, given) or ([] if role.required else [None]) for role in self.roles
        ]
        return [
            {role.name: column for role, column in zip(self.roles, choice, strict=True) if column is not None}
            for choice in product(*options)
        ]

    def holds(self, row: Mapping[str, Any], columns: Mapping[str, str]) -> bool:
        """Tell whether a row has a cell of the right look for every required role."""
        needed = [(role, row.get(columns[role.name])) for role in self.roles if role.required]
        return all(filled(cell) and role.looks(cell) for role, cell in needed)


def filled(cell: Any) -> bool:
    """Tell whether a cell holds anything; white space is nothing."""
    return cell is not None and (not isinstance(cell, str) or bool(cell.strip()))


def columns_for(role: Role, present: Sequence[str], given: Mapping[str, str]) -> list[str]:
    """Columns that may play a role: the given one, else those of its very name, else those of its other names."""
    if role.name in given:
        return [given[role.name]]
    free = {column: column.strip().casefold() for column in present if column not in given.values()}
    own = [column for column, name in free.items() if name == role.name]
    return own or [column for column, name in free.items() if name in role.others]


def _turns(cells: dict[str, Any], *question: str, answer: str) -> list[Message]:
    asked = "\n\n".join(cells[role] for role in question if role in cells)
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": cells[answer]}]
    return _opened(cells, _chosen(cells, turns))


def _chosen(cells: dict[str, Any], messages: list[Message]) -> list[Message]:
    """Write the choices behind the question; an answer that is the number of one, from 0, becomes its letter."""
    if not (choices := cells.get("choices")):
        return messages
    lines = "\n".join(f"{letter}. {choice}" if letter else choice for letter, choice in choices.items())
    place = next(place for place, message in enumerate(messages) if message["role"] == "assistant") - 1
    asked, answer = messages[place], messages[place + 1]
    said = answer["content"].strip()
    if said.isdecimal() and said not in (*choices, *choices.values()) and "" not in choices:
        if int(said) >= len(choices):
            raise RowProblem(
                f"the answer {said} is none of {len(choices)} choices", "count them from 0, or write its text"
            )
        answer = answer | {"content": list(choices)[int(said)]}
    asked = asked | {"content": f"{asked['content']}\n\n{lines}"}
    return [*messages[:place], asked, answer, *messages[place + 2 :]]


def _opened(cells: dict[str, Any], messages: list[Message]) -> list[Message]:
    """Begin with the row's system prompt, unless the messages bring their own, and with what was said before."""
    own = messages[: bool(messages) and messages[0]["role"] == "system"]
    before, rest = list(cells.get("history", ())), messages[len(own) :]
    if before and before[-1]["role"] == "user" and rest and rest[0]["role"] == "user":
        rest = [rest[0] | {"content": f"{before.pop()['content']}\n\n{rest[0]['content']}"}, *rest[1:]]
    if not own and before and before[0]["role"] == "system":
        own = [before.pop(0)]
    if not own and "system" in cells:
        own = [{"role": "system", "content": cells["system"]}]
    return equipped([*own, *before, *rest], cells.get("tools"))


def _conversation(cells: dict[str, Any]) -> list[Message]:
    return validated(_opened(cells, cells["messages"]))


def _completed(cells: dict[str, Any]) -> list[Message]:
    if any(message["role"] != "assistant" for message in cells["completion"][:1]):
        fix = "a column of whole conversations is format='messages', columns={'messages': …}"
        raise RowProblem("the completion does not begin with the assistant's answer", fix)
    return validated(_opened(cells, _chosen(cells, [*cells["prompt"], *cells["completion"]])))


def _pair(cells: dict[str, Any]) -> tuple[list[Message], list[Message], list[Message]]:
    asked = _opened(cells | {"tools": None}, cells.get("prompt", []))  # tools may lie with what both sides begin with
    prompt, chosen, rejected = split_pair(asked, cells["chosen"], cells["rejected"])
    return equipped(prompt, cells.get("tools")), chosen, rejected


SYSTEM = Role("system", ("system_prompt",), required=False, tells=False)
TOOLS = Role("tools", ("functions",), required=False, parse=parse.tools, tells=False)
HISTORY = Role("history", ("chat_history",), required=False, parse=parse.history, tells=False)
CHOICES = Role("choices", ("options",), required=False, parse=parse.choices, tells=False)
ASKED = (CHOICES, HISTORY, TOOLS, SYSTEM)
LABELLED = ("sentence", "review", "content", "comment", "tweet", "utterance", "message", "body", "description")

LAYOUTS: dict[str, LayoutType] = {}
"""All layouts by name."""


def register(layout: LayoutType) -> None:
    """Add a layout to `LAYOUTS`.

    Parameters
    ----------
    layout : LayoutType
        Its name is what users write as ``format``.

    Raises
    ------
    ValueError
        When another layout has this name.
    """
    if LAYOUTS.setdefault(layout.name, layout) is not layout:
        raise ValueError(f"there is a layout {layout.name!r} already; choose another name")
    register_name("format", layout.name)


register_name("format", "auto")
for _layout in (
    LayoutType(
        "prompt_completion",
        (
            Role("prompt", ("query", "input", "source", "document", "article", "dialogue"), parse=parse.said("user")),
            Role(
                "completion",
                ("response", "reply", "output", "answer", "target", "summary", "highlights"),
                parse=parse.said("assistant"),
            ),
            *ASKED,
        ),
        _completed,
    ),
    LayoutType(
        "instruction",
        (
            Role("instruction", ("instructions",)),
            Role("input", ("context",), required=False),
            Role("output", ("response", "reply", "answer", "completion")),
            *ASKED,
        ),
        lambda cells: _turns(cells, "instruction", "input", answer="output"),
    ),
    LayoutType(
        "question_answer",
        (
            Role("question", ("q", "ask")),
            Role("context", ("passage", "document"), required=False),
            Role(
                "answer",
                ("a", "answers", "answerkey", "answer_key", "response", "reply", "output"),
                parse=parse.answer,
                lists=("answers",),
            ),
            *ASKED,
        ),
        lambda cells: _turns(cells, "context", "question", answer="answer"),
    ),
    LayoutType(
        "messages",
        (
            Role(
                "messages",
                ("chat", "conversation", "conversations"),
                parse=lambda cell: read_messages(cell, OPENAI),
                looks=lambda cell: style(cell) != SHAREGPT and not isinstance(parse_cell(cell), str),
            ),
            TOOLS,
            SYSTEM,
        ),
        _conversation,
    ),
    LayoutType(
        "sharegpt",
        (
            Role(
                "messages",
                ("conversations", "conversation", "chat"),
                parse=lambda cell: read_messages(cell, SHAREGPT),
                looks=lambda cell: style(cell) == SHAREGPT,
            ),
            TOOLS,
            SYSTEM,
        ),
        _conversation,
    ),
    LayoutType("text", (Role("text", ("document",)),), lambda cells: cells["text"], "text"),
    LayoutType(
        "text_label",
        (
            Role("text", ("document", *LABELLED)),
            Role(
                "label",
                ("labels", "class", "category", "target", "sentiment", "intent"),
                parse=parse.labels,
                looks=parse.is_label,
            ),
        ),
        lambda cells: cells["text"],
        "labelled",
    ),
    LayoutType(
        "preference",
        (
            Role("prompt", ("question", "query", "instruction", "input"), required=False, parse=parse.said("user")),
            Role("chosen", parse=parse.said("assistant")),
            Role("rejected", parse=parse.said("assistant")),
            TOOLS,
            SYSTEM,
        ),
        _pair,
        "preference",
    ),
):
    register(_layout)


@dataclass(frozen=True)
class Layout:
    """A layout found in a table.

    Attributes
    ----------
    name : str
        A key of `LAYOUTS`.
    columns : dict of str to str
        Which column plays which role.
    why : str
        What was recognised and from what, as a sentence for the user.
    """

    name: str
    columns: dict[str, str]
    why: str

    @property
    def kind(self) -> Kind:
        """What rows become: "chat", "text", "labelled" (a text and its labels) or "preference"."""
        return LAYOUTS[self.name].kind

    @property
    def plain(self) -> bool:
        """True when rows are texts, with labels or without, not conversations."""
        return self.kind in ("text", "labelled")

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        """Turn a row into a conversation.

        Parameters
        ----------
        row : mapping
            A row of a table of the kind "chat".

        Returns
        -------
        list of dict
            Messages with ``role``, ``content`` and, where tools are called, ``tool_calls``.

        Raises
        ------
        RowProblem
            When a cell is empty or of the wrong kind.
        DataError
            When the rows are preference pairs; see :meth:`untrained`.
        """
        if self.kind == "preference":
            raise self.untrained(row)
        messages: list[Message] = LAYOUTS[self.name].write(self._cells(row))
        return messages

    def text(self, row: Mapping[str, Any]) -> str:
        """Turn a row of the kind "text" or "labelled" into its text; the counterpart of :meth:`messages`."""
        written: str = LAYOUTS[self.name].write(self._cells(row))
        return written

    def labels(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Give the classes of a row of the kind "labelled": their names, or their numbers in decimal digits."""
        labels: tuple[str, ...] = self._cells(row)["label"]
        return labels

    def pair(self, row: Mapping[str, Any]) -> tuple[list[Message], list[Message], list[Message]]:
        """Turn a row of the kind "preference" into its prompt, the chosen answer and the rejected one."""
        pair: tuple[list[Message], list[Message], list[Message]] = LAYOUTS[self.name].write(self._cells(row))
        return pair

    def untrained(self, row: Mapping[str, Any]) -> DataError:
        """Say that preference pairs are not trained on, and how to train on the chosen answers of such a table.

        Parameters
        ----------
        row : mapping
            A row of it, such as the first: it shows whether the cells are answers or whole conversations.

        Returns
        -------
        DataError
            To be raised.
        """
        chosen = row.get(self.columns["chosen"])
        keys = style(chosen)
        if keys and [message["role"] for message in read_messages(chosen, keys)][:1] != ["assistant"]:
            name, columns = ("messages" if keys == OPENAI else "sharegpt"), {"messages": self.columns["chosen"]}
        else:
            columns = {role: self.columns[role] for role in ("prompt", "system") if role in self.columns}
            name, columns = "prompt_completion", {**columns, "completion": self.columns["chosen"]}
        fix = f"to train on the chosen answers alone, set format={name!r}, columns={columns}"
        return DataError(f"rows are preference pairs, which are recognised but not trained on yet; {fix}")

    def options(self, row: Mapping[str, Any]) -> list[str]:
        """Give what could be answered where a row has choices: their letters or texts, whichever its answer is."""
        choices = self._cells(row).get("choices", {}) if "choices" in self.columns else {}
        if len(choices) < 2:
            return []
        said = self.messages(row)[-1]["content"].strip()
        forms = (list(map(str.strip, one)) for one in (choices, choices.values()))
        return next((form for form in forms if said in form), [])

    def by_number(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row's answer is the number of one of its choices, and is learned as the letter of that."""
        column = self.columns.get("answer", self.columns.get("completion", self.columns.get("output", "")))
        given = row.get(column) if "choices" in self.columns else None
        return given is not None and str(given).strip().isdecimal() and self.messages(row)[-1]["content"] != str(given)

    def unread(self, row: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """Give the keys of a row's messages that nothing reads, with what they hold."""
        return [pair for column in self.columns.values() for pair in unread(row.get(column))]

    def _cells(self, row: Mapping[str, Any]) -> dict[str, Any]:
        cells = {}
        for role in LAYOUTS[self.name].roles:
            column = self.columns.get(role.name)
            cell = None if column is None else row.get(column)
            if column is not None and filled(cell):
                try:
                    cells[role.name] = role.read(cell, column)
                except RowProblem as problem:
                    raise RowProblem(f"column {column!r} {problem.reason}", problem.fix) from None
            elif role.required:
                raise RowProblem(f"column {self.columns[role.name]!r} is empty")
        return cells
