"""What an index holds on what users ask, put before it as before the questions of training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peft_nb.data.conversations import Message
from peft_nb.data.prompts import Prompt
from peft_nb.documents import prompt

if TYPE_CHECKING:
    from peft_nb.documents.retriever import Retriever


@dataclass(frozen=True)
class Passage:
    """A chunk that was put before a question.

    Attributes
    ----------
    source, place, text : str
        The document, where in it, and what it says.
    score : float
        How well it fits the question, at most 2 / 61.
    """

    source: str
    place: str
    text: str
    score: float


def retrieve(
    retriever: Retriever, prompts: Sequence[Prompt], k: int
) -> tuple[list[list[Message]], list[list[Passage]]]:
    """Put documents before what users ask, as before evaluation rows.

    Parameters
    ----------
    retriever : Retriever
        The index.
    prompts : sequence of str or of list of dict
        Questions, or conversations that end in one.
    k : int
        Chunks of each, best first.

    Returns
    -------
    tuple of list of list of dict and list of list of Passage
        Of each the conversation with the documents, and these.
    """
    asked: list[list[Message]] = [
        [{"role": "user", "content": one}] if isinstance(one, str) else list(one) for one in prompts
    ]
    laid, passages = [], []
    questions = list(map(prompt.question, asked))
    for messages, hits in zip(asked, retriever.rank(questions, k), strict=True):
        chunks = retriever.chunks([hit.chunk for hit in hits])
        laid.append(prompt.put(messages, [one.searched for one in chunks]))
        passages.append(
            [Passage(one.source, one.place, one.text, hit.score) for one, hit in zip(chunks, hits, strict=True)]
        )
    return laid, passages
