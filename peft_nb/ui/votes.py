"""Votes: whose answer a person liked best without knowing whose it was, what that says about runs, and all as rows."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from html import escape
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from peft_nb.store import Evaluation, Store, Vote
from peft_nb.store import votes as kept
from peft_nb.ui import wording

if TYPE_CHECKING:
    import pandas

SUITE = "vote"
Votes = Mapping[int, str | None]  # by the place of the prompt; None where none was better


def votes(*, rated: bool = False, store: Store | None = None) -> pandas.DataFrame:
    """Give the votes of people as rows to train on, such as ``%%peft lora --task dpo --data votes`` takes.

    Parameters
    ----------
    rated : bool, default False
        The thumbs up and down of chats, as rated answers, instead of the blind votes of comparisons, as pairs.
    store : Store, optional
        Where the votes are; default ``peft_runs`` in the working folder.

    Returns
    -------
    pandas.DataFrame
        Of pairs ``prompt``, ``chosen``, ``rejected``, whose answers these are (``chosen_run``, ``rejected_run``) and
        ``time``; votes for no difference are left out, and one on three answers gives two pairs. Of rated answers
        ``prompt``, ``completion``, ``label`` (True for a thumb up), ``run`` and ``time``. A prompt is a text or the
        messages of a conversation, without the run's system prompt; answers are as they were shown, also where they
        were cut at the most new tokens.

    Raises
    ------
    StoreError
        If the store refuses.
    """
    import pandas

    given = (store or Store()).votes()
    rows, columns = (kept.rated(given), kept.RATED) if rated else (kept.pairs(given), kept.PAIRS)
    return pandas.DataFrame(rows, columns=list(columns))


def shuffled(names: Sequence[str], place: int, seed: int) -> dict[str, str]:
    """Give names letters, in another order for each prompt: who is always A is soon known.

    Parameters
    ----------
    names : sequence of str
        Those that answered.
    place : int
        Which prompt it is, from 0.
    seed : int
        Fixes the orders.

    Returns
    -------
    dict of str to str
        The names by ``A``, ``B``, …, in the order of the letters.
    """
    drawn = random.Random(f"{seed} {place}").sample(names, len(names))
    return dict(zip(letters(len(names)), drawn, strict=True))


def letters(number: int) -> list[str]:
    """Name so many answers: ``A``, ``B``, … and after ``Z`` by numbers."""
    return [*string.ascii_uppercase, *map(str, range(27, number + 1))][:number]


def tally(votes: Votes, names: Sequence[str]) -> pandas.DataFrame:
    """Count votes.

    Parameters
    ----------
    votes : mapping of int to str or None
        The name of the best answer to each prompt.
    names : sequence of str
        Those that answered.

    Returns
    -------
    pandas.DataFrame
        One row a name, the best first: ``won`` and ``of`` how many decided votes, their ``share``, and the ends ``low``
        and ``high`` of its 95 % interval (Wilson); these three are missing while nothing is decided.
    """
    import pandas

    from peft_nb.evaluation.scores import wilson

    decided = [name for name in votes.values() if name is not None]
    rows = []
    for name in names:
        won, of = decided.count(name), len(decided)
        rows.append((won, of, won / of, *wilson(won, of)) if of else (0, 0, None, None, None))
    columns = ["won", "of", "share", "low", "high"]
    table = pandas.DataFrame(rows, columns=columns, index=pandas.Index(names, name="run"))
    return table.sort_values("won", ascending=False, kind="stable")


class WinRate(NamedTuple):
    """How often ``run`` was preferred to ``over``: in ``won`` of how many decided votes, and how many ``ties`` besides.

    The ``share`` and the ends ``low`` and ``high`` of its 95 % interval (Wilson) are missing while nothing is decided.
    """

    run: str
    over: str
    won: int
    of: int
    ties: int
    share: float | None
    low: float | None
    high: float | None


def win_rates(votes: Sequence[Vote], ids: Mapping[str, str]) -> list[WinRate]:
    """Count for each two how often the one was preferred to the other.

    Parameters
    ----------
    votes : sequence of Vote
        What people said. A vote for a third says nothing about the two, and where both gave the same answer it is a
        tie.
    ids : mapping of str to str
        As for :func:`evaluations`.

    Returns
    -------
    list of WinRate
        One for any two that were voted on.
    """
    from peft_nb.evaluation.scores import wilson

    found = []
    for (name, id), (other, rival) in combinations(ids.items(), 2):
        both = [vote for vote in votes if {id, rival} <= vote.answers.keys()]
        best = [None if vote.answers[id] == vote.answers[rival] else vote.best for vote in both]
        won, lost, ties = (best.count(one) for one in (id, rival, None))
        of = won + lost
        share, low, high = (won / of, *wilson(won, of)) if of else (None, None, None)
        found += [WinRate(name, other, won, of, ties, share, low, high)] * (of + ties > 0)
    return found


def evaluations(votes: Votes, ids: Mapping[str, str]) -> dict[str, Evaluation]:
    """Say what votes tell of each answerer as the store keeps it.

    Parameters
    ----------
    votes : mapping of int to str or None
        As for :func:`tally`.
    ids : mapping of str to str
        The ids of the runs by their names, ``base`` for the base.

    Returns
    -------
    dict of str to Evaluation
        By name: the share of the decided votes that it won, against whom, and how many were left undecided. Unknown
        while none is decided.
    """
    undecided = sum(name is None for name in votes.values())
    found = {}
    for name, (won, of, share, low, high) in tally(votes, list(ids)).iterrows():
        others = ", ".join(id for other, id in ids.items() if other != name)
        detail = {"won": int(won), "of": int(of), "undecided": undecided}
        found[str(name)] = Evaluation(SUITE, f"preferred to {others}", share, low, high, detail)
    return found


def html(votes: pandas.DataFrame, tally: pandas.DataFrame) -> str:
    """Draw how a vote went.

    Parameters
    ----------
    votes, tally : pandas.DataFrame
        As of a :class:`peft_nb.Comparison`, with at least one vote.

    Returns
    -------
    str
        The shares with their intervals, and the best answer to each prompt; all escaped.
    """
    lines = []
    for name, (won, of, share, low, high) in tally.iterrows():
        sure = f": {wording.share(share)} (95 % interval {wording.share(low)} to {wording.share(high)})" if of else ""
        lines.append(f"<li><bdi>{escape(str(name))}</bdi> {wording.count(won, 'vote')} of {of:.0f}{sure}</li>")
    best = [f"<bdi>{escape(name)}</bdi>" if name else "no difference" for name in votes["best"]]
    places = [f'<li value="{place + 1}">{said}</li>' for place, said in zip(votes["place"], best, strict=True)]
    style = 'style="margin:0;padding-left:2em;overflow-wrap:anywhere"'
    return (
        f'<div style="margin-top:12px"><strong>Votes</strong><ul {style}>{"".join(lines)}</ul>'
        f"<details><summary>Prompt by prompt</summary><ol {style}>{''.join(places)}</ol></details></div>"
    )
