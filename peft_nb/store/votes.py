"""What people said of answers: which of several is best, or of one whether it is good; and that as rows to train on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from peft_nb.store.connection import Index, sha256

Prompt = str | list[dict[str, Any]]

PAIRS = ("prompt", "chosen", "rejected", "chosen_run", "rejected_run", "time")
RATED = ("prompt", "completion", "label", "run", "time")
EDIT = "edit"  # who an answer is by that a person wrote in place of a run's


@dataclass(frozen=True)
class Vote:
    """A vote on the answers to a prompt.

    Attributes
    ----------
    prompt : str or list of dict
        What was asked: a text, or the messages of a conversation.
    answers : dict of str to str
        What each said, by the id of the run, ``base`` for the base model, ``edit`` for what a person wrote instead.
    best : str or None
        Whose answer is the best, None where none is better; of one answer its own id if it is good, None if it is bad.
    at : datetime
        When, in UTC.
    """

    prompt: Prompt
    answers: dict[str, str]
    best: str | None
    at: datetime

    @property
    def key(self) -> str:
        """What was voted on; a later vote on the same replaces this one."""
        return sha256(json.dumps([self.prompt, self.answers], sort_keys=True))


def keep(index: Index, prompt: Prompt, answers: Mapping[str, str], best: str | None) -> Vote:
    """Keep a vote; one on the same answers to the same prompt is replaced."""
    vote = Vote(prompt, dict(answers), best, datetime.fromtimestamp(time.time(), UTC))
    values = (vote.key, vote.at.timestamp(), json.dumps(vote.prompt), json.dumps(vote.answers), vote.best)
    with index.writing() as db:
        db.execute("INSERT OR REPLACE INTO votes VALUES (?, ?, ?, ?, ?)", values)
    return vote


def read(index: Index) -> list[Vote]:
    """Read all votes, the oldest first."""
    return [
        Vote(json.loads(row["prompt"]), json.loads(row["answers"]), row["best"], datetime.fromtimestamp(row["at"], UTC))
        for row in index.read("SELECT * FROM votes ORDER BY at, id")
    ]


def pairs(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """Write votes on several answers as pairs to learn from, with the columns :data:`PAIRS`.

    Of each vote the best answer beside every other, each text once; without ties, and without answers that say
    nothing or the same as the best.
    """
    return [dict(zip(PAIRS, row, strict=True)) for vote in votes for row in _pairs(vote)]


def _pairs(vote: Vote) -> Iterator[tuple[Any, ...]]:
    chosen = vote.answers.get(vote.best or "", "")
    seen = {"", chosen.strip()}
    for run, answer in vote.answers.items() if chosen.strip() else ():
        if answer.strip() not in seen:
            seen.add(answer.strip())
            yield vote.prompt, chosen, answer, vote.best, run, vote.at


def rated(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """Write votes on one answer as rated answers, with the columns :data:`RATED`."""
    rows = []
    for vote in votes:
        if len(vote.answers) == 1:
            ((run, answer),) = vote.answers.items()
            row = (vote.prompt, answer, vote.best is not None, run, vote.at)
            rows.append(dict(zip(RATED, row, strict=True)))
    return rows


def feedback(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """Bring thumbs and edits of the same answer together.

    One row an answer: ``prompt``, ``answer``, ``thumb``, ``edited``, ``run`` and ``time``, of the last vote on it;
    None where there was no thumb or no edit. Of several edits the last counts.
    """
    found: dict[str, dict[str, Any]] = {}
    for vote in votes:
        (run, answer), *others = [one for one in vote.answers.items() if one[0] != EDIT] or [("", "")]
        edited = vote.answers.get(EDIT)
        if others or not run or run == "base":
            continue
        key = sha256(json.dumps([vote.prompt, run, answer], sort_keys=True))
        row = found.pop(key, {"prompt": vote.prompt, "answer": answer, "thumb": None, "edited": None, "run": run})
        told = {"thumb": vote.best is not None} if edited is None else {"edited": edited}
        found[key] = row | told | {"time": vote.at}
    return list(found.values())
