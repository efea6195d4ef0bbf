"""Layouts of training data: which columns hold what, and what a row becomes: a conversation, a text, labels or a pair.

A layout is one entry of `LAYOUTS`, ours or one that a package registers; nothing else has to change when one is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from peft_nb.data import RowProblem
from peft_nb.data.conversations import OPENAI, SHAREGPT, Message, parse_cell, split_pair, style, text, validated
from peft_nb.data.conversations import read as read_messages
from peft_nb.errors import DataError
from peft_nb.spec.names import register_name

Kind = Literal["chat", "text", "labelled", "preference"]


@dataclass(frozen=True)
class Role:
    """One thing a layout needs, the column names that usually hold it, and how a cell is read.

    ``looks`` tells a cell of this role from one of another layout; it is false of no cell that ``parse`` can read.
    """

    name: str
    others: tuple[str, ...] = ()
    required: bool = True
    parse: Callable[[Any], Any] = text
    looks: Callable[[Any], bool] = lambda cell: True


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


def _said(speaker: str) -> Callable[[Any], list[Message]]:
    """Read a cell that holds messages or the words of one speaker."""

    def parse(cell: Any) -> list[Message]:
        held = parse_cell(cell)
        keys = style(held)
        return read_messages(held, keys) if keys else [{"role": speaker, "content": text(cell)}]

    return parse


def _answer(cell: Any) -> str:
    """Read an answer; of several (SQuAD, Natural Questions) the first."""
    several = cell.get("text") if isinstance(cell, Mapping) else parse_cell(cell)
    if isinstance(several, (list, tuple)):
        if not several:
            raise RowProblem("holds no answer", "drop the row, or say in words that there is none")
        return text(several[0])
    return text(cell)


def _labels(cell: Any) -> tuple[str, ...]:
    """Read the name of one class or a list of several."""
    several = parse_cell(cell)
    names = map(_label, several) if isinstance(several, (list, tuple)) else [_label(cell)]
    return tuple(dict.fromkeys(names))


def _label(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():  # what pandas makes of integers where one is missing
        value = int(value)
    if isinstance(value, int) or (isinstance(value, str) and value.strip()):
        return str(value).strip()
    shown = repr(value) if isinstance(value, (float, str)) else f"a {type(value).__name__}"
    raise RowProblem(f"holds {shown}, not a class", "give class names or whole numbers, or lists of them")


def _is_label(cell: Any) -> bool:
    try:
        _labels(cell)
    except RowProblem:
        return False
    return True


def _turns(cells: dict[str, Any], *question: str, answer: str) -> list[Message]:
    asked = "\n\n".join(cells[role] for role in question if role in cells)
    return _opened(cells, [{"role": "user", "content": asked}, {"role": "assistant", "content": cells[answer]}])


def _opened(cells: dict[str, Any], messages: list[Message]) -> list[Message]:
    """Begin with the row's system prompt, unless the messages bring their own."""
    own = "system" not in cells or any(message["role"] == "system" for message in messages[:1])
    return messages if own else [{"role": "system", "content": cells["system"]}, *messages]


def _conversation(cells: dict[str, Any]) -> list[Message]:
    return validated(_opened(cells, cells["messages"]))


def _completed(cells: dict[str, Any]) -> list[Message]:
    if any(message["role"] != "assistant" for message in cells["completion"][:1]):
        fix = "a column of whole conversations is format='messages', columns={'messages': …}"
        raise RowProblem("the completion does not begin with the assistant's answer", fix)
    return validated(_opened(cells, [*cells["prompt"], *cells["completion"]]))


def _pair(cells: dict[str, Any]) -> tuple[list[Message], list[Message], list[Message]]:
    return split_pair(_opened(cells, cells.get("prompt", [])), cells["chosen"], cells["rejected"])


SYSTEM = Role("system", ("system_prompt",), required=False)
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
            Role("prompt", ("query", "input", "source", "document", "article", "dialogue"), parse=_said("user")),
            Role(
                "completion",
                ("response", "reply", "output", "answer", "target", "summary", "highlights"),
                parse=_said("assistant"),
            ),
            SYSTEM,
        ),
        _completed,
    ),
    LayoutType(
        "instruction",
        (
            Role("instruction", ("instructions",)),
            Role("input", ("context",), required=False),
            Role("output", ("response", "reply", "answer", "completion")),
            SYSTEM,
        ),
        lambda cells: _turns(cells, "instruction", "input", answer="output"),
    ),
    LayoutType(
        "question_answer",
        (
            Role("question", ("q", "ask")),
            Role("context", ("passage", "document"), required=False),
            Role("answer", ("a", "answers", "response", "reply", "output"), parse=_answer),
            SYSTEM,
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
                parse=_labels,
                looks=_is_label,
            ),
        ),
        lambda cells: cells["text"],
        "labelled",
    ),
    LayoutType(
        "preference",
        (
            Role("prompt", ("question", "query", "instruction", "input"), required=False, parse=_said("user")),
            Role("chosen", parse=_said("assistant")),
            Role("rejected", parse=_said("assistant")),
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

    def _cells(self, row: Mapping[str, Any]) -> dict[str, Any]:
        cells = {}
        for role in LAYOUTS[self.name].roles:
            cell = row.get(self.columns.get(role.name, ""))
            if filled(cell):
                try:
                    cells[role.name] = role.parse(cell)
                except RowProblem as problem:
                    column = self.columns[role.name]
                    raise RowProblem(f"column {column!r} {problem.reason}", problem.fix) from None
            elif role.required:
                raise RowProblem(f"column {self.columns[role.name]!r} is empty")
        return cells
