"""``peft_nb.index`` and ``%peft index``: documents to retrieve from, with what is in them."""

from __future__ import annotations

import re
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.documents.chunks import SIZE
from peft_nb.documents.retriever import MODEL, NAME, Retriever, build, folder_of, holds_index
from peft_nb.errors import DataError
from peft_nb.store import Store
from peft_nb.system.display import Displayed, panel_of
from peft_nb.system.frontend import variables
from peft_nb.ui import wording
from peft_nb.ui.progress_bar import progress_bar
from peft_nb.ui.style import BOX, MUTED, NUMBERS

if TYPE_CHECKING:
    import pandas

SHOWN = 20  # documents in a table
WORDS = re.compile(r"\w+")
LEAST = 3  # letters of a word that is marked


def index(
    documents: object = None,
    *,
    name: str | None = None,
    model: str = MODEL,
    size: int = SIZE,
    store: Store | None = None,
) -> Index:
    """Read documents into an index that is searched by words and by meaning, or open one.

    Parameters
    ----------
    documents : str, Path, DataFrame, list or dict, optional
        A folder or a file of txt, md, html, pdf or docx; a DataFrame or a list of dicts with a column ``text`` and, for
        names, ``source``; a list of texts or of files; texts by name. All that the index shall hold: what did not
        change since the last time is not embedded again, what is gone is forgotten. By default the index `name` is
        opened as it is.
    name : str, optional
        Under which it is kept in the store; by default that of the folder or file, else ``documents``.
    model : str, default "minilm-l6"
        The encoder that embeds.
    size : int, default 800
        Characters of a chunk at most.
    store : Store, optional
        Default ``peft_runs`` in the working folder.

    Returns
    -------
    Index
        Shown by a notebook with a box to search in; ``.search(text)`` gives a table.

    Raises
    ------
    DataError
        What is wrong with the documents, or that the extra ``documents`` is not installed.
    StoreError
        If there is no such index, or the disk refuses.
    """
    folder = (store or Store()).folder
    if documents is None:
        if name is None:
            raise DataError("index: neither documents nor a name; name a folder of documents, or an index to open")
        return Index(Retriever(folder_of(name, folder), variables()))
    here = folder_of(name or named(documents), folder)
    with progress_bar() as progress:
        return Index(build(documents, here, model=model, size=size, namespace=variables(), progress=progress))


def named(documents: object) -> str:
    """Name an index after the folder or file it is made of."""
    if not isinstance(documents, str | Path):
        return "documents"
    return re.sub(r"[^\w.-]+", "-", Path(documents).expanduser().resolve().stem)[:64].strip(".-") or "documents"


def kept(name: str, store: Store | None = None) -> bool:
    """Whether the store has an index of a name."""
    return bool(NAME.fullmatch(name)) and holds_index(folder_of(name, (store or Store()).folder))


class Index(Displayed):
    """Documents that were read, searched by words and by meaning.

    Parameters
    ----------
    retriever : Retriever
        What searches.

    Attributes
    ----------
    name : str
        Under which it is kept.
    """

    panel = cached_property(panel_of)

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever
        self.name = retriever.folder.name

    def search(self, text: str, k: int = 5) -> pandas.DataFrame:
        """Find the chunks that fit a text; see :meth:`peft_nb.documents.retriever.Retriever.search`."""
        return self.retriever.search(text, k)

    @property
    def documents(self) -> pandas.DataFrame:
        """One row a document: ``source``, ``chunks``, ``characters``."""
        return self.retriever.documents()

    def __len__(self) -> int:
        return self.retriever.facts.chunks

    def __repr__(self) -> str:
        lines = [headline(self)]
        lines += [f"warning: {line}" for line in warnings(self)]
        lines += [f"note: {line}" for line in self.retriever.facts.notes]
        return "\n".join([*lines, f'next: {self.name}.search("…")' if self.name.isidentifier() else ""]).strip()

    def _repr_html_(self) -> str:
        return page(self)


def headline(index: Index) -> str:
    """Say in a line what an index holds."""
    facts = index.retriever.facts
    many = f"{wording.count(facts.documents, 'document')}, {wording.count(facts.chunks, 'chunk')}"
    known = f" ({facts.embedded:,} embedded anew)" if facts.embedded < facts.chunks else ""
    return f"index {index.name}: {many}{known}, {facts.characters:,} characters; embeddings by {facts.model}"


def warnings(index: Index) -> list[str]:
    """Say what stands in the chunks that not everybody should find."""
    found = index.retriever.found().items()
    return [f"{kind} in {wording.count(count, 'chunk')}, first in {first}" for kind, (count, first) in found]


def page(index: Index) -> str:
    """Draw what an index holds, as it stays in a saved notebook."""
    table = index.documents
    parts = [f"<div><b>{escape(headline(index))}</b></div>"]
    parts += [f'<div role="alert">warning: {escape(line)}</div>' for line in warnings(index)]
    parts += [f'<div style="{MUTED}">{escape(line)}</div>' for line in index.retriever.facts.notes]
    cell = 'style="text-align:right;padding:2px 0 2px 16px"'
    name = 'scope="row" style="text-align:left;font-weight:normal;overflow-wrap:anywhere"'
    rows = [
        f"<tr><th {name}>{escape(str(source))}</th><td {cell}>{chunks:,}</td><td {cell}>{characters:,}</td></tr>"
        for source, chunks, characters in table.head(SHOWN).itertuples(index=False)
    ]
    head = f'<th scope="col" style="text-align:left">document</th><th scope="col" {cell}>chunks</th>'
    head += f'<th scope="col" {cell}>characters</th>'
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    parts.append(f'<table style="border-collapse:collapse;{NUMBERS}">{body}</table>')
    if len(table) > SHOWN:
        parts.append(f'<div style="{MUTED}">and {len(table) - SHOWN:,} more</div>')
    return f'<div style="{BOX}">{"".join(parts)}</div>'


def hits(found: pandas.DataFrame, asked: str) -> str:
    """Draw what a search found, the words that were asked for marked."""
    if found.empty:
        return "<div>nothing found</div>"
    return "".join(map(partial(_hit, asked=asked), range(1, len(found) + 1), found.to_dict("records")))


def _hit(place: int, hit: dict[str, Any], asked: str) -> str:
    return (
        f'<div style="margin:8px 0;padding-left:8px;border-left:3px solid var(--jp-brand-color1,#1976d2)">'
        f'<div style="{MUTED};{NUMBERS}">{place}. {escape(hit["source"])}, {escape(hit["place"])} · {_ranks(hit)}</div>'
        f'<div style="white-space:pre-wrap;overflow-wrap:anywhere">{marked(hit["text"], asked)}</div></div>'
    )


def _ranks(hit: dict[str, Any]) -> str:
    import pandas

    told = {"words": hit["by_words"], "meaning": hit["by_meaning"]}
    ranks = [f"{rank:,} by {way}" for way, rank in told.items() if not pandas.isna(rank)]
    return f"score {hit['score']:.4f}, rank {', '.join(ranks)}"


def marked(text: str, asked: str) -> str:
    """Escape a text, and mark the words that were asked for."""
    wanted = {word.lower() for word in WORDS.findall(asked) if len(word) >= LEAST}
    parts, end = list[str](), 0
    for word in WORDS.finditer(text):
        if word[0].lower() in wanted:
            parts += [escape(text[end : word.start()]), f"<mark>{escape(word[0])}</mark>"]
            end = word.end()
    return "".join([*parts, escape(text[end:])])
