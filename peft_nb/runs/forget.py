"""Where a person's data are: the rows that runs learned from, what came of these runs, votes, routers, indexes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas

from peft_nb.data.examples import Examples
from peft_nb.errors import DataError, ModelError
from peft_nb.events import silent
from peft_nb.models.load import located
from peft_nb.models.resolve import resolve
from peft_nb.runs import rows
from peft_nb.store import Record, Store

COLUMNS = ["what", "where", "found", "rows", "to do"]
LEAST = 3  # letters, or the text would be found in almost every row


@dataclass(frozen=True)
class Forget:
    """What was found of a person, and what has to be done.

    Attributes
    ----------
    table : pandas.DataFrame
        ``what`` (a run, votes or an index), ``where`` (of a run its aliases), ``found`` (in training rows, in
        evaluation rows, by inheritance), ``rows`` (their numbers, the first ones) and ``to do``.
    unlooked : list of str
        What could not be looked through, and why.
    """

    table: pandas.DataFrame
    unlooked: list[str]


def forget(store: Store, person: str) -> Forget:
    """Find what the store holds of a person; nothing is changed.

    Looked through are the encoded rows of every run, decoded, questions that are kept for its evaluation, votes,
    prompts of routers that were served, and chunks of indexes, for the text as it is but for capitals and white space.
    What an adapter has learned of a row cannot be taken out of it: it has to be trained again without the row, and so
    has whatever was made from it.

    Parameters
    ----------
    store : Store
        Where to look.
    person : str
        A name, an address, or whatever else the rows would hold of the person.

    Returns
    -------
    Forget
        A table, and what could not be looked through.

    Raises
    ------
    DataError
        If the text is too short to find anybody by.
    """
    wanted = _plain(person)
    if len(wanted) < LEAST:
        raise DataError(f"person: {person!r} is too short to find anybody by; write {LEAST} letters or more")
    found, unlooked = list[dict[str, Any]](), list[str]()
    touched: dict[str, Record] = {}
    for record in reversed(store.all()):
        where = ", ".join(f"{record.name}@{alias}" for alias in [*record.aliases, *record.shares])
        try:
            parts = {part: _places(texts, wanted) for part, texts in _texts(record).items()}
        except (OSError, ValueError, KeyError, ModelError) as error:
            unlooked.append(f"{record.title}: {error}")
            parts = {}
        inherited = [
            touched[parent.record.id].title
            for parent in store.lineage(record.id).parents
            if parent.record.id in touched
        ]
        todo = _todo(where, trained=bool(parts.get("training rows")) or bool(inherited))
        for part, places in parts.items():
            if places:
                found.append(dict(zip(COLUMNS, (record.title, where, part, _some(places), todo), strict=True)))
        if inherited:
            told = f"made from {', '.join(inherited)}"
            found.append(dict(zip(COLUMNS, (record.title, where, told, "", todo), strict=True)))
        if inherited or parts.get("training rows"):
            touched[record.id] = record
    found += _elsewhere(store, wanted)
    return Forget(pandas.DataFrame(found, columns=COLUMNS), unlooked)


def _texts(record: Record) -> dict[str, Iterator[tuple[int, str]]]:
    """The texts of a run with their numbers: of its rows, and what is asked in its evaluation."""
    parts: dict[str, Iterator[tuple[int, str]]] = {}
    if (sides := rows.kept(record.folder)) is None:
        raise ValueError("its rows are no longer kept; look through its data")
    decode = _decoder(record)
    parts["training rows"] = _decoded(sides.train, decode)
    parts["evaluation rows"] = _decoded(sides.held_out, decode)
    if (asked := record.folder / rows.JUDGING).is_file():
        told = json.loads(asked.read_text(encoding="utf-8")).get("asked", [])
        parts["questions of its evaluation"] = ((n, json.dumps(one, ensure_ascii=False)) for n, one in enumerate(told))
    return parts


def _decoded(side: Examples, decode: Callable[[Sequence[int]], str]) -> Iterator[tuple[int, str]]:
    return ((int(side.rows[place]), decode(one.ids)) for place, one in enumerate(side))


def _decoder(record: Record) -> Callable[[Sequence[int]], str]:
    """What makes text of a run's tokens: its own tokenizer where it changed that of its base, else the base's."""
    from transformers import AutoTokenizer

    folder = record.folder / "adapter"
    if not (folder / "tokenizer_config.json").is_file():
        folder = located(resolve(record.model), silent, [])
    read: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not hasattr(read, "decode"):
        raise ValueError("its rows are no texts; look through its data")
    decode: Callable[[Sequence[int]], str] = read.decode
    return decode


def _elsewhere(store: Store, wanted: str) -> Iterator[dict[str, Any]]:
    """What votes, routers and indexes hold."""
    from peft_nb.documents.retriever import Retriever

    votes = [n for n, one in enumerate(store.votes()) if wanted in _plain(f"{one.prompt} {one.answers}")]
    if votes:
        yield dict(
            zip(COLUMNS, ("votes", "", "votes", _some(votes), "vote on others, and leave these out"), strict=True)
        )
    for file in sorted(store.folder.glob("routers/*/rows.json")):
        prompts = [one for some in json.loads(file.read_text(encoding="utf-8"))["rows"].values() for one in some]
        if places := [n for n, one in enumerate(prompts) if wanted in _plain(one)]:
            todo = "serve it again once the runs are trained again"
            yield dict(zip(COLUMNS, (f"router {file.parent.name}", "", "prompts", _some(places), todo), strict=True))
    for file in sorted(store.folder.glob("indexes/*/chunks.sqlite")):
        retriever = Retriever(file.parent)
        texts = enumerate(retriever.chunks(range(retriever.facts.chunks)))
        if places := [n for n, one in texts if wanted in _plain(one.searched)]:
            todo = "change the documents, and index them again"
            yield dict(zip(COLUMNS, (f"index {file.parent.name}", "", "chunks", _some(places), todo), strict=True))


def _places(texts: Iterator[tuple[int, str]], wanted: str) -> list[int]:
    return sorted({number for number, text in texts if wanted in _plain(text)})


def _todo(where: str, *, trained: bool) -> str:
    act = (
        "train it again without these rows, then %peft rm" if trained else "leave these rows out of its evaluation set"
    )
    return f"{act}; {where} has to move to the new version first" if trained and where else act


def _some(places: list[int], most: int = 5) -> str:
    shown = ", ".join(map(str, places[:most]))
    return f"{len(places):,} ({shown}{', …' if len(places) > most else ''})"


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
