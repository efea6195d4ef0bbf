"""``peft_nb.feedback`` and ``%peft feedback``: what people said of a run's answers, as rows to train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_nb.errors import DataError, nearest
from peft_nb.runs.run import Run
from peft_nb.store import Store, find, votes
from peft_nb.ui.listing import Listing

if TYPE_CHECKING:
    import pandas

COLUMNS = {
    None: {name: name for name in ("prompt", "answer", "thumb", "edited")},
    "kto": {"prompt": "prompt", "completion": "answer", "label": "thumb"},
    "dpo": {"prompt": "prompt", "chosen": "edited", "rejected": "answer"},
    "generation": {"prompt": "prompt", "completion": "better"},
}
"""Of what rows are for the columns that these have, and what they hold."""


def feedback(run: Run | str | None = None, *, for_: str | None = None, store: Store | None = None) -> pandas.DataFrame:
    """Give thumbs and edits of answers as rows, with the version that answered.

    They come from ``%peft chat`` and, through ``POST /v1/feedback``, from clients of ``%peft serve``.

    Parameters
    ----------
    run : Run or str, optional
        Whose answers; by default all.
    for_ : {"kto", "dpo", "generation"}, optional
        The task that the rows are for: ``kto`` learns from thumbs, ``dpo`` from edits against the answers that were
        edited, ``generation`` from edits and from answers with a thumb up. By default all is given.
    store : Store, optional
        Where the feedback is; default that of the run, else ``peft_runs`` in the working folder.

    Returns
    -------
    pandas.DataFrame
        ``prompt``, ``answer``, ``thumb`` (True up, False down, missing for none) and ``edited``, or the columns that
        the task learns from; with ``version``, ``run`` and ``time``. A prompt is a text, or messages.

    Raises
    ------
    DataError
        If it is none of these.
    StoreError
        If there is no such run.
    """
    if for_ not in COLUMNS:
        known = [name for name in COLUMNS if name]
        raise DataError(f"{for_}: not one of {', '.join(known)}{nearest(str(for_), known)}")
    (where, id), columns = _whose(run, store), COLUMNS[for_]
    titles = {record.id: record.title for record in where.all()}
    rows = []
    for one in votes.feedback(where.votes()):
        one["better"] = one["answer"] if one["edited"] is None and one["thumb"] else one["edited"]
        whole = for_ is None or all(one[held] is not None for held in columns.values())
        if whole and id in (None, one["run"]):
            told = {"version": titles.get(one["run"], one["run"]), "run": one["run"], "time": one["time"]}
            rows.append({name: one[held] for name, held in columns.items()} | told)
    return Listing(rows, columns=[*columns, "version", "run", "time"])


def _whose(run: Run | str | None, store: Store | None) -> tuple[Store, str | None]:
    """The store, and the id of the run whose feedback is wanted."""
    if isinstance(run, str):
        where, record = (store, store.get(run)) if store else find(run)
        return where, record.id
    return store or (run.store if run else Store()), run.id if run else None
