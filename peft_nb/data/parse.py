"""How a cell is read that plays a role in a layout: what is said, answered, chosen from, called or to be told apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any

from peft_nb.data import RowProblem, printed
from peft_nb.data.conversations import Message, equipped, is_written, parse_cell, style, text
from peft_nb.data.conversations import read as read_messages

# What a column says of an answer, and whether that means that it is good.
RATINGS = {
    **dict.fromkeys(("true", "1", "yes", "y", "good", "up", "thumbs up", "thumbsup", "👍", "like", "liked"), True),
    **dict.fromkeys(("upvote", "positive", "correct", "right", "accepted", "accept", "approved", "pass"), True),
    **dict.fromkeys(("passed", "desirable", "chosen", "preferred", "helpful", "safe"), True),
    **dict.fromkeys(("false", "0", "-1", "no", "n", "bad", "down", "thumbs down", "thumbsdown", "👎"), False),
    **dict.fromkeys(("dislike", "disliked", "downvote", "negative", "incorrect", "wrong", "rejected"), False),
    **dict.fromkeys(("reject", "disapproved", "fail", "failed", "undesirable", "unhelpful", "unsafe"), False),
}
STARS = {frozenset((low, high)): {low: False, high: True} for low in "01" for high in ("5", "10")}
TEXTS = ("response", "answer", "text", "content", "completion", "output", "generation", "value")
SCORES = {"overall_score": 1, "score": 1, "rating": 1, "reward": 1, "rank": -1}  # -1 where the least is the best


def said(speaker: str) -> Callable[[Any], list[Message]]:
    """Read a cell that holds messages or the words of one speaker."""

    def parse(cell: Any) -> list[Message]:
        turns = parse_cell(cell)
        if isinstance(cell, str) and cell.lstrip().startswith("{"):  # one message
            turns = [held(cell)]
        keys = style(turns) if not isinstance(cell, str) or is_written(turns) else None
        return read_messages(turns, keys) if keys else [{"role": speaker, "content": text(cell)}]

    return parse


def asked(cell: Any) -> list[Message]:
    """Read what was asked: words, messages, or a dict of messages and tools as OpenAI's files of pairs have it."""
    found = held(cell)
    if isinstance(found, Mapping) and isinstance(found.get("messages"), list | tuple):
        messages = said("user")(found["messages"])
        return equipped(messages, tools(found["tools"])) if found.get("tools") else messages
    return said("user")(cell)


def answers(cell: Any) -> list[tuple[list[Message], float | None]]:
    """Read several answers to one question, each with the score that lies with it; of ranks the negative."""
    found = held(cell)
    if not isinstance(found, list | tuple):
        raise RowProblem(f"holds a {type(found).__name__}, not a list of answers", "write a list of at least two")
    return list(map(_answer, found))


def _answer(one: Any) -> tuple[list[Message], float | None]:
    if not isinstance(one, Mapping) or style(one):
        score = _score(one) if isinstance(one, Mapping) else None
        return said("assistant")(one), score
    words = next((one[key] for key in TEXTS if one.get(key) is not None), None)
    if words is None:
        raise RowProblem("holds an answer without its text", f"name the text one of {', '.join(TEXTS)}")
    return said("assistant")(words), _score(one)


def _score(answer: Mapping[str, Any]) -> float | None:
    for key, sign in SCORES.items():
        if (value := number(answer.get(key))) is not None:
            return sign * value
    return None


def number(value: Any) -> float | None:
    """Read a number; None for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if isfinite(found) else None


def numbers(cell: Any) -> list[float | None]:
    """Read a list of numbers, in which some may be missing."""
    found = held(cell)
    if not isinstance(found, list | tuple):
        raise RowProblem(f"holds a {type(found).__name__}, not a list of numbers", "write one number an answer")
    if wrong := [one for one in found if one is not None and number(one) is None]:
        raise RowProblem(f"holds {str(wrong[0])[:20]!r}, not a number", "write one number an answer")
    return list(map(number, found))


def is_ranked(cells: Mapping[str, Any]) -> bool:
    """Tell whether answers come with scores or ranks: in lists of their own, or each in a dict with its score."""
    several = [held(cells[role]) for role in ("scores", "ranks") if role in cells]
    found = held(cells["responses"])
    scored = [isinstance(one, Mapping) and bool(SCORES.keys() & set(one)) for one in found]
    return any(isinstance(one, list | tuple) for one in several) or (bool(scored) and all(scored))


def rating(cell: Any, words: Mapping[str, bool] = RATINGS) -> bool:
    """Tell from a cell whether an answer is good."""
    if (good := words.get(rated_as(cell))) is None:
        fix = "write true for a good answer and false for a bad one, or drop the row"
        raise RowProblem(f"holds {str(cell)[:20]!r}, which says neither good nor bad", fix)
    return good


def rated_as(cell: Any) -> str:
    """The word of a cell that says whether an answer is good: without case, and whole numbers without a point."""
    if isinstance(cell, float) and cell.is_integer():  # what pandas makes of truth where one is missing
        cell = int(cell)
    word = str(cell).strip().casefold().lstrip("+").removesuffix(".0")
    if word[:1] in ("👍", "👎"):  # of whatever colour
        return word[0]
    return word if word.startswith("-") else " ".join(re.split(r"[\s_-]+", word))


def ratings(cells: Iterable[Any], told: bool = False) -> Mapping[str, bool] | None:
    """Find out which values of a column mean good and which bad.

    Parameters
    ----------
    cells : iterable
        What it holds, without empty cells.
    told : bool, default False
        The user says that it rates: then all may be good, or all bad.

    Returns
    -------
    mapping of str to bool, or None
        Values as :func:`rated_as` writes them; None where they do not fall into good and bad ones.
    """
    found = {rated_as(cell) for cell in cells}
    if stars := STARS.get(frozenset(found)):
        return stars
    words = {word: RATINGS[word] for word in found if word in RATINGS}
    clear = len(words) == len(found) and (len(set(words.values())) == 2 or (told and bool(words)))
    return RATINGS if clear else None


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
