"""What documents are worth to a model: asked with them, without them, and without the one that answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from peft_nb.data.conversations import Message
from peft_nb.documents import prompt
from peft_nb.evaluation import scores

WAYS = {
    "base, closed book": (False, "closed"),
    "base, with documents": (False, "found"),
    "adapter, closed book": (True, "closed"),
    "adapter, with documents": (True, "found"),
    "adapter, without the golden chunk": (True, "lacking"),
}
"""Who is asked, whether with the adapter, and what stands before the question."""


def asked(messages: Sequence[Message], documents: Mapping[str, Any], way: str) -> list[Message]:
    """Write what a model is asked.

    Parameters
    ----------
    messages : sequence of dict
        A conversation with documents before its question.
    documents : mapping
        What they are, as :func:`peft_nb.documents.raft.laid` gives it.
    way : {"found", "closed", "lacking"}
        With the documents as they were found, without any, or without the golden one alone.

    Returns
    -------
    list of dict
        The conversation.
    """
    if way == "found":
        return list(messages)
    bare = prompt.taken_out(messages, documents["texts"])
    pairs = zip(documents["texts"], documents["chunks"], strict=True)
    left = [text for text, chunk in pairs if chunk != documents["golden"]]
    return bare if way == "closed" else prompt.put(bare, left)


def measured(
    answers: Sequence[str], references: Sequence[str], documents: Sequence[Mapping[str, Any]]
) -> dict[str, float | None]:
    """Measure answers to questions with documents before them.

    Parameters
    ----------
    answers, references : sequence of str
        What was said, and what is right.
    documents : sequence of mapping
        What stood before each question, as :func:`peft_nb.documents.raft.laid` gives it.

    Returns
    -------
    dict of str to float or None
        ``exact_match`` and ``contained``, the shares of answers that equal and that contain their reference, without
        citations, case and punctuation; ``citation_precision``, the share of the documents cited that are golden, and
        ``citation_recall``, the share of the answers that cite the golden document where it is there. None where
        nothing is cited, or no golden document is there.
    """
    said, right = (
        [scores.normalised(prompt.CITATION.sub("", one)) for one in texts] for texts in (answers, references)
    )
    pairs = list(zip(said, right, strict=True))
    hits: list[bool] = []
    recalled: list[bool] = []
    for answer, one in zip(answers, documents, strict=True):
        cited = {one["chunks"][number - 1] for number in prompt.cited(answer) if 0 < number <= len(one["chunks"])}
        wrong = sum(number > len(one["chunks"]) for number in prompt.cited(answer))
        hits += [chunk == one["golden"] for chunk in cited] + [False] * wrong
        if one["golden"] in one["chunks"]:
            recalled.append(one["golden"] in cited)
    return {
        "exact_match": float(numpy.mean([answer == reference for answer, reference in pairs])),
        "contained": float(numpy.mean([f" {reference} " in f" {answer} " for answer, reference in pairs])),
        "citation_precision": float(numpy.mean(hits)) if hits else None,
        "citation_recall": float(numpy.mean(recalled)) if recalled and hits else None,
    }
