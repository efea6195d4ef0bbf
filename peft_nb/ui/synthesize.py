"""``peft_nb.synthesize`` and ``%peft synthesize``: rows made from documents, with what was dropped and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from peft_nb.documents import templates
from peft_nb.documents.synthesis import Rows
from peft_nb.documents.synthesis import synthesize as written
from peft_nb.errors import DataError
from peft_nb.events import Progress
from peft_nb.runs import writers
from peft_nb.system.frontend import variables
from peft_nb.ui import listing, wording
from peft_nb.ui.index import Index
from peft_nb.ui.progress_bar import progress_bar
from peft_nb.ui.style import BOX

if TYPE_CHECKING:
    import pandas

SHOWN = 8  # rows in a table
WIDE = 300  # letters of a row that was dropped
TEMPLATES = "templates"


def synthesize(
    index: Index,
    rows: int = 200,
    *,
    model: Any = None,
    address: str | None = None,
    eval_data: pandas.DataFrame | Sequence[Mapping[str, Any]] | None = None,
    allow_pii: bool = False,
    seed: int = 0,
) -> Synthesized:
    """Write question and answer rows from documents, and keep those that the documents bear out.

    Parameters
    ----------
    index : Index
        The documents, as :func:`peft_nb.index` read them.
    rows : int, default 200
        How many are wanted.
    model : Run, str or tuple, optional
        What writes: a run, an alias, a folder, a name on the hub or a live ``(model, tokenizer)`` pair; with `address`
        its name there. By default questions are made from the sentences themselves by templates, in English: small
        models such as the default base are not to be trusted with it.
    address : str, optional
        Of an OpenAI-compatible server, such as ``https://api.example.org/v1``. The chunks are sent to it. The key is
        read from the environment (``OPENAI_API_KEY``).
    eval_data : DataFrame or list of dict, optional
        Rows that are evaluated on, which none may repeat.
    allow_pii : bool, default False
        Whether chunks with personal data or secrets may be sent to an `address` of another machine.
    seed : int, default 0
        Of the order of the chunks.

    Returns
    -------
    Synthesized
        With ``.rows``, a DataFrame that a run takes as its data.

    Raises
    ------
    DataError
        What is wrong with what was asked, or what the other side refuses.
    ModelError
        If the model cannot be loaded.
    """
    if not isinstance(index, Index):
        raise DataError(f"index: a {type(index).__name__} is none; make one with peft_nb.index(documents)")
    notes = list[str]()
    against = _questions(eval_data)
    with progress_bar() as progress:
        write, author = _writer(index, model, address, allow_pii, progress, notes)
        made = written(index.retriever, write, author, rows=rows, against=against, seed=seed, progress=progress)
    return Synthesized(index.name, author, made, notes)


def _writer(
    index: Index, model: Any, address: str | None, allow_pii: bool, progress: Progress, notes: list[str]
) -> tuple[Any, str]:
    """What writes, and its name."""
    if address:
        if not isinstance(model, str):
            raise DataError("model: not named; an address needs the name of the model there, as model='…'")
        found = index.retriever.found()
        if found and not allow_pii:
            kinds = ", ".join(found)
            raise DataError(
                f"the documents hold {kinds}, and would be sent to {address}; redact them, or allow_pii=True"
            )
        return writers.remote(address, model), model
    if model is None:
        return (lambda chunks: [templates.written(one) for one in chunks]), TEMPLATES
    progress(0, "loading the model that writes")
    write, parameters = writers.local(model, variables())
    name = model if isinstance(model, str) else getattr(model, "name", None) or getattr(model, "id", "a model")
    if parameters < writers.SMALL:
        told = f"{parameters / 1e6:,.0f} million parameters"
        notes.append(f"{name} has {told}: what so small a model writes is often wrong; read the rows, or use templates")
    return write, str(name)


def _questions(data: Any) -> list[str]:
    """What is asked in rows that are evaluated on."""
    from peft_nb.data.detection import detect
    from peft_nb.data.sources import read

    if data is None:
        return []
    rows = read(data, variables()).train
    layout = detect(rows)
    if layout.kind != "chat" or layout.plain:
        raise DataError(f"eval_data: {layout.why}; give rows with questions")
    return [" ".join(turn["content"] for turn in layout.messages(row) if turn["role"] == "user") for row in rows]


class Synthesized:
    """Rows that were made from documents.

    Parameters
    ----------
    index, author : str
        Names of the documents, and of what wrote.
    made : Rows
        What was kept and what was dropped.
    notes : list of str
        What else there is to say.

    Attributes
    ----------
    rows : pandas.DataFrame
        ``question``, ``answer``, ``source``, ``place``, ``chunk_id`` and ``synthetic``, which says who wrote them.
    dropped : pandas.DataFrame
        The same columns, and ``reason``.
    """

    def __init__(self, index: str, author: str, made: Rows, notes: Sequence[str] = ()) -> None:
        self.index, self.author = index, author
        self.rows, self.dropped, self.notes = made.kept, made.dropped, [*notes, *made.notes]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def reasons(self) -> dict[str, int]:
        """Why rows were dropped, and how many, most frequent first."""
        return {str(why): int(many) for why, many in self.dropped.reason.value_counts().items()}

    def __repr__(self) -> str:
        lines = [headline(self), *(f"dropped: {many:,} {why}" for why, many in self.reasons.items())]
        lines += [f"note: {line}" for line in self.notes]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return page(self)


def headline(made: Synthesized) -> str:
    """Say in a line what was written and kept."""
    count = wording.count(len(made), "row")
    chunks = wording.count(made.rows.chunk_id.nunique(), "chunk")
    return f"{count} from {chunks} of {made.index}, by {made.author}; {len(made.dropped):,} more were dropped"


def page(made: Synthesized) -> str:
    """Draw some of the rows, and what was dropped and why, as it stays in a saved notebook."""
    parts = [f"<div><b>{escape(headline(made))}</b></div>"]
    parts += [f'<div role="alert">{escape(line)}</div>' for line in made.notes]
    if len(made):
        shown = made.rows.iloc[:: max(1, len(made) // SHOWN)].head(SHOWN)
        cells = [
            (row["question"], row["answer"], f"{row['source']}, {row['place']}") for row in shown.to_dict("records")
        ]
        parts.append(listing.rows(("question", "answer", "from"), cells))
    if reasons := made.reasons:
        parts.append('<div style="margin-top:12px"><b>dropped</b></div>')
        first = made.dropped.drop_duplicates("reason").to_dict("records")
        such = {row["reason"]: shorten(f"{row['question']} {row['answer']}", WIDE) for row in first}
        parts.append(
            listing.rows(("reason", "rows", "such as"), [(why, f"{reasons[why]:,}", such[why]) for why in reasons])
        )
    return f'<div style="{BOX}">{"".join(parts)}</div>'
