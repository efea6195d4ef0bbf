"""How a cell is read that plays a role in a layout: what is said, answered, chosen from, called or to be told apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from peft_nb.data import RowProblem, printed
from peft_nb.data.conversations import Message, is_written, parse_cell, style, text
from peft_nb.data.conversations import read as read_messages


def said(speaker: str) -> Callable[[Any], list[Message]]:
    """Read a cell that holds messages or the words of one speaker."""

    def parse(cell: Any) -> list[Message]:
        turns = parse_cell(cell)
        keys = style(turns) if not isinstance(cell, str) or is_written(turns) else None
        return read_messages(turns, keys) if keys else [{"role": speaker, "content": text(cell)}]

    return parse


def answer(cell: Any) -> str:
    """Read an answer; of several (SQuAD, Natural Questions) the first."""
    several = cell.get("text") if isinstance(cell, Mapping) else cell
    if isinstance(several, (list, tuple)):
        if not several:
            raise RowProblem("holds no answer", "drop the row, or say in words that there is none")
        return text(several[0])
    return text(cell)


def held(cell: Any) -> Any:
    """Give the list or dict that a text cell holds; any other cell as it is."""
    return printed.read(cell, cell) if isinstance(cell, str) else cell


def tools(cell: Any) -> list[dict[str, Any]]:
    """Read the definitions of tools; bare functions are wrapped as chat templates expect it."""
    found = held(cell)
    given = [found] if isinstance(found, Mapping) else found
    several: list[Any] = [held(one) for one in given] if isinstance(given, (list, tuple)) else [None]
    if not all(isinstance(one, Mapping) and {"function", "name"} & set(one) for one in several):
        fix = 'write a list such as [{"type": "function", "function": {"name": …}}] in JSON, or drop the column'
        raise RowProblem("holds no definitions of tools", fix)
    return [dict(one) if "function" in one else {"type": "function", "function": dict(one)} for one in several]


def history(cell: Any) -> list[Message]:
    """Read what was said before: messages, pairs of a question and its answer, or text."""
    found = held(cell)
    if (keys := style(found)) and not isinstance(found, str):
        return read_messages(found, keys)
    if isinstance(found, (list, tuple)):
        if any(not isinstance(pair, (list, tuple)) or len(pair) != 2 for pair in found):
            raise RowProblem("holds a list that is none of pairs", "write [[question, answer], …] or messages")
        speakers = ("user", "assistant")
        turns = (turn for pair in found for turn in zip(speakers, pair, strict=True))
        return [{"role": who, "content": text(words)} for who, words in turns]
    return [{"role": "user", "content": text(cell)}]


def choices(cell: Any) -> dict[str, str]:
    """Read the choices of a question by their letters, of lists A, B, …; text is one without a letter."""
    found = held(cell)
    if isinstance(found, Mapping) and {"text", "label"} <= set(found):  # as in ARC
        letters, texts = list(map(text, found["label"])), list(map(text, found["text"]))
        if len(letters) != len(texts):
            raise RowProblem(f"holds {len(texts)} choices with {len(letters)} labels", "give each choice a label")
        return dict(zip(letters, texts, strict=True))
    if isinstance(found, Mapping):
        return {str(letter): text(choice) for letter, choice in found.items()}
    if isinstance(found, (list, tuple)) and all(isinstance(one, Mapping) and "text" in one for one in found):
        found = [one["text"] for one in found]
    if isinstance(found, (list, tuple)):
        return {_letter(number): text(choice) for number, choice in enumerate(found)}
    return {"": text(cell)}


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def labels(cell: Any) -> tuple[str, ...]:
    """Read the name of one class or a list of several."""
    several = parse_cell(cell)
    names = map(_label, several) if isinstance(several, (list, tuple)) else [_label(cell)]
    return tuple(dict.fromkeys(names))


def _label(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():  # what pandas makes of integers where one is missing
        value = int(value)
    if isinstance(value, str) and printed.is_cut(value):
        raise RowProblem("holds a list that numpy printed without its middle", "keep the data as JSON lines or parquet")
    if isinstance(value, int) or (isinstance(value, str) and value.strip()):
        return str(value).strip()
    shown = repr(value) if isinstance(value, (float, str)) else f"a {type(value).__name__}"
    raise RowProblem(f"holds {shown}, not a class", "give class names or whole numbers, or lists of them")


def is_label(cell: Any) -> bool:
    """Tell whether a cell can be read as labels."""
    try:
        labels(cell)
    except RowProblem:
        return False
    return True
