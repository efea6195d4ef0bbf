"""How documents are put before a question: one form, in which models learn to read them and are asked with them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from peft_nb.data import RowProblem
from peft_nb.data.conversations import Message

GOLDEN = "[golden]"
CITATION = re.compile(r"\[(\d{1,3})\]")


def block(texts: Sequence[str]) -> str:
    """Number documents, so that an answer can cite them.

    Parameters
    ----------
    texts : sequence of str
        What they say, in order.

    Returns
    -------
    str
        ``[1] …`` and so on, with a blank line after each.
    """
    return "".join(f"[{number}] {text}\n\n" for number, text in enumerate(texts, start=1))


def put(messages: Sequence[Message], texts: Sequence[str]) -> list[Message]:
    """Put documents before what the user said last.

    Parameters
    ----------
    messages : sequence of dict
        A conversation.
    texts : sequence of str
        The documents, in order; none leave it as it is.

    Returns
    -------
    list of dict
        The conversation, changed in one message.

    Raises
    ------
    RowProblem
        When no message is the user's.
    """
    place = _asked(messages)
    said = messages[place]
    return [*messages[:place], said | {"content": block(texts) + said["content"]}, *messages[place + 1 :]]


def taken_out(messages: Sequence[Message], texts: Sequence[str]) -> list[Message]:
    """Undo :func:`put`; parameters and result as there."""
    place = _asked(messages)
    said = messages[place]
    return [
        *messages[:place],
        said | {"content": said["content"].removeprefix(block(texts))},
        *messages[place + 1 :],
    ]


def question(messages: Sequence[Message]) -> str:
    """What the user said last, by which documents are found; RowProblem where no message is the user's."""
    content: str = messages[_asked(messages)]["content"]
    return content


def cited(answer: str) -> list[int]:
    """The numbers of the documents that an answer cites, each once, in order."""
    return list(dict.fromkeys(map(int, CITATION.findall(answer))))


def citing(messages: Sequence[Message], place: int | None) -> list[Message]:
    """Write the number of the golden document where the last answer says ``[golden]``.

    Parameters
    ----------
    messages : sequence of dict
        A conversation that ends with an answer, or has none.
    place : int or None
        The number; None leaves the citation out.

    Returns
    -------
    list of dict
        The conversation, changed in its last message.
    """
    *before, last = messages
    if last["role"] != "assistant" or GOLDEN not in last["content"]:
        return list(messages)
    content = last["content"]
    for text in (f" {GOLDEN}", GOLDEN):
        content = content.replace(text, "" if place is None else text.replace("golden", str(place)))
    return [*before, last | {"content": content}]


def _asked(messages: Sequence[Message]) -> int:
    for place in range(len(messages) - 1, -1, -1):
        if messages[place]["role"] == "user":
            return place
    raise RowProblem("has no question, before which documents could be put", "add a message of the user")
