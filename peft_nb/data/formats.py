"""Layouts of training data: which columns hold what, and how a row becomes a conversation or a text.

A layout is one entry of `FORMATS`; nothing else has to change when one is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from peft_nb.data import RowProblem, Rows
from peft_nb.errors import DataError, nearest

Message = dict[str, str]  # {"role": one of SPEAKERS, "content": text}
SPEAKERS = ("system", "user", "assistant")


def _text(value: Any) -> str:
    if isinstance(value, (str, int, float)):
        return str(value)
    raise RowProblem(f"holds a {type(value).__name__}, not text", "turn it into text or name another column")


def _conversation(value: Any) -> list[Message]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        mend = "give a list such as [{'role': 'user', 'content': …}, {'role': 'assistant', 'content': …}]"
        raise RowProblem(f"holds a {type(value).__name__}, not a list of messages", mend)
    messages = [_message(number, message) for number, message in enumerate(value)]
    spoken = [message["role"] for message in messages]
    if "system" in spoken[1:]:
        raise RowProblem("has a system message that is not the first", "move it to the front")
    if [speaker for speaker in spoken if speaker != "system"][:1] != ["user"]:
        raise RowProblem("does not begin with a user message", "add it or drop the row")
    if "assistant" not in spoken:
        raise RowProblem("would train nothing: no message is the assistant's", "add its answer or drop the row")
    return messages


def _message(number: int, message: Any) -> Message:
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise RowProblem(f"message {number} is not a dict with 'role' and 'content'", "mend or drop the row")
    speaker, content = message["role"], message["content"]
    if speaker not in SPEAKERS:
        hint = nearest(str(speaker), SPEAKERS)
        raise RowProblem(f"message {number} has the role {speaker!r}{hint}", f"roles are {', '.join(SPEAKERS)}")
    if not isinstance(content, str) or not content.strip():
        empty = content is None or isinstance(content, str)
        kind = "is empty" if empty else f"holds a {type(content).__name__}, not text"
        raise RowProblem(f"message {number} ({speaker}) {kind}")
    return {"role": speaker, "content": content}


@dataclass(frozen=True)
class Role:
    """One thing a layout needs, the column names that usually hold it, and how a cell is checked."""

    name: str
    others: tuple[str, ...] = ()
    required: bool = True
    check: Callable[[Any], Any] = _text


@dataclass(frozen=True)
class Format:
    """A layout of columns; ``write`` turns the checked cells, by role, into messages or (if plain) a text."""

    name: str
    roles: tuple[Role, ...]
    write: Callable[[dict[str, Any]], Any]
    plain: bool = False

    def readings(self, present: Sequence[str], given: Mapping[str, str]) -> list[dict[str, str]]:
        """Every way to find the roles among the columns `present`, as role to column."""
        options = [self._options(role, present, given) for role in self.roles]
        return [
            {role.name: column for role, column in zip(self.roles, choice, strict=True) if column is not None}
            for choice in product(*options)
        ]

    @staticmethod
    def _options(role: Role, present: Sequence[str], given: Mapping[str, str]) -> Sequence[str | None]:
        if role.name in given:
            return [given[role.name]]
        free = [column for column in present if column not in given.values()]
        for names in ((role.name,), role.others):
            found = [column for column in free if column.strip().casefold() in names]
            if found:
                return found
        return [] if role.required else [None]


def _turns(cells: dict[str, Any], question: str, answer: str) -> list[Message]:
    system = [{"role": "system", "content": cells["system"]}] if "system" in cells else []
    return [*system, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


SYSTEM = Role("system", ("system_prompt",), required=False)

FORMATS = {
    entry.name: entry
    for entry in (
        Format(
            "prompt_completion",
            (
                Role("prompt", ("query", "input", "source")),
                Role("completion", ("response", "reply", "output", "answer", "target")),
                SYSTEM,
            ),
            lambda cells: _turns(cells, cells["prompt"], cells["completion"]),
        ),
        Format(
            "instruction",
            (
                Role("instruction", ("instructions",)),
                Role("input", ("context",), required=False),
                Role("output", ("response", "reply", "answer", "completion")),
                SYSTEM,
            ),
            lambda cells: _turns(
                cells,
                "\n\n".join(cells[role] for role in ("instruction", "input") if role in cells),
                cells["output"],
            ),
        ),
        Format(
            "question_answer",
            (Role("question", ("q", "ask")), Role("answer", ("a", "response", "reply", "output")), SYSTEM),
            lambda cells: _turns(cells, cells["question"], cells["answer"]),
        ),
        Format(
            "messages",
            (Role("messages", ("chat", "conversation"), check=_conversation),),
            lambda cells: cells["messages"],
        ),
        Format("text", (Role("text", ("document",)),), lambda cells: cells["text"], plain=True),
    )
}


@dataclass(frozen=True)
class Layout:
    """A layout found in a table.

    Attributes
    ----------
    name : str
        A key of `FORMATS`.
    columns : dict of str to str
        Which column plays which role.
    why : str
        What was recognised and from what, as a sentence for the user.
    """

    name: str
    columns: dict[str, str]
    why: str

    @property
    def plain(self) -> bool:
        """True when rows are texts, not conversations."""
        return FORMATS[self.name].plain

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        """Turn a row into a conversation.

        Parameters
        ----------
        row : mapping
            A row of the table; not of a plain layout.

        Returns
        -------
        list of dict
            Messages with ``role`` and ``content``.

        Raises
        ------
        RowProblem
            When a cell is empty or of the wrong kind.
        """
        messages: list[Message] = self._write(row)
        return messages

    def text(self, row: Mapping[str, Any]) -> str:
        """Turn a row of a plain layout into its text; the counterpart of :meth:`messages`."""
        text: str = self._write(row)
        return text

    def _write(self, row: Mapping[str, Any]) -> Any:
        cells = {}
        for role in FORMATS[self.name].roles:
            cell = row.get(self.columns.get(role.name, ""))
            if cell is not None and (not isinstance(cell, str) or cell.strip()):
                try:
                    cells[role.name] = role.check(cell)
                except RowProblem as problem:
                    column = self.columns[role.name]
                    raise RowProblem(f"column {column!r} {problem.reason}", problem.mend) from None
            elif role.required:
                raise RowProblem(f"column {self.columns[role.name]!r} is empty")
        return FORMATS[self.name].write(cells)


def detect(rows: Sequence[Mapping[str, Any]], format: str = "auto", columns: Mapping[str, str] | None = None) -> Layout:
    """Recognise the layout of a table by the names of its columns.

    A name that is the role's own comes before its usual other names, and a reading that uses more columns
    before one that uses some of the same; what then is still ambiguous is refused.

    Parameters
    ----------
    rows : sequence of mapping
        The table.
    format : str, default "auto"
        A key of `FORMATS` to insist on.
    columns : mapping of str to str, optional
        Role to column, for columns of other names, such as ``{"prompt": "ask"}``.

    Returns
    -------
    Layout
        What was recognised, and why.

    Raises
    ------
    DataError
        When the table fits no layout or several, or `format` or `columns` names something that is not there.
    """
    present = rows.columns if isinstance(rows, Rows) else tuple(dict.fromkeys(key for row in rows for key in row))
    given = columns or {}
    if format not in ("auto", *FORMATS):
        hint = nearest(format, FORMATS)
        raise DataError(f"format {format!r} is not known{hint}; formats are auto, {', '.join(FORMATS)}")
    formats = list(FORMATS.values()) if format == "auto" else [FORMATS[format]]
    roles = list(dict.fromkeys(role.name for entry in formats for role in entry.roles))
    for role, column in given.items():
        if role not in roles:
            hint = nearest(role, roles)
            raise DataError(
                f"columns: {role!r} is not a role{hint}; columns maps a role ({', '.join(roles)}) to a column"
            )
        if column not in present:
            hint = nearest(column, present)
            raise DataError(f"columns: there is no column {column!r} for {role}{hint}; there are {_listed(present)}")
    fitting = [entry for entry in formats if set(given) <= {role.name for role in entry.roles}]
    found = [(entry.name, reading) for entry in fitting for reading in entry.readings(present, given)]
    used = [set(reading.values()) for _, reading in found]
    best = [pair for pair, own in zip(found, used, strict=True) if not any(own < other for other in used)]
    if not best:
        raise DataError(_unrecognised(present, format, given))
    if len(best) > 1:
        readings = " or ".join(f"format={name!r}, columns={reading}" for name, reading in best)
        raise DataError(f"columns {_listed(present)} can be read in {len(best)} ways; say which: {readings}")
    name, reading = best[0]
    unused = [column for column in present if column not in reading.values()]
    why = f"columns {', '.join(reading.values())} → {name}" + (f" (not used: {', '.join(unused)})" if unused else "")
    return Layout(name, reading, why)


def _listed(present: Sequence[str]) -> str:
    return ", ".join(map(repr, present)) or "none"


def _unrecognised(present: Sequence[str], format: str, given: Mapping[str, str]) -> str:
    """Word the refusal of a table that fits no layout, with an example of how to say what is meant."""
    name = format if format != "auto" else "prompt_completion" if len(present) > 1 else "text"
    needed = [role.name for role in FORMATS[name].roles if role.required]
    free = [column for column in present if column not in given.values()]
    example = {role: given.get(role) or (free.pop(0) if free else "…") for role in needed}
    fit = "fit no known layout" if format == "auto" else f"do not fit {format}, which needs {', '.join(needed)}"
    say = f"format={name!r}, columns={example}"
    return f"columns {_listed(present)} {fit}; say which column is which, such as {say}"
