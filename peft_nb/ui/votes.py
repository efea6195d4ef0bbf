"""Blind votes: whose answer a person liked best without knowing whose it was, and what that says about runs."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from peft_nb.store import Evaluation
from peft_nb.ui import wording

if TYPE_CHECKING:
    import pandas

SUITE = "vote"
Votes = Mapping[int, str | None]  # by the place of the prompt; None where none was better


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
