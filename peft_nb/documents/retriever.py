"""Chunks that are found by their words and by what they mean, kept in a folder of the store.

    peft_runs/
      indexes/manuals/
        chunks.sqlite    what was read: chunks with their place, and what was found in them
        vectors.npy      a row a chunk, mapped into memory
        words/           BM25's counts, mapped too

The folder is written whole or not at all. What did not change is neither embedded nor looked through again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from peft_nb.data.quality import pii
from peft_nb.data.quality.secrets import secrets
from peft_nb.documents import reading
from peft_nb.documents.chunks import SIZE, Chunk, cut
from peft_nb.documents.embedding import Embedder
from peft_nb.errors import DataError, StoreError, nearest
from peft_nb.events import Progress, silent
from peft_nb.store.connection import NAME
from peft_nb.system import files

MODEL = "minilm-l6"
FUSED = 60  # the constant of reciprocal rank fusion, as its paper has it
CANDIDATES = 100  # of each of the two ways to search
MANY = 100_000  # chunks, with which a question is compared in some 20 ms
WORD = r"(?u)\w+"
SCHEMA = """
CREATE TABLE chunks (
    n INTEGER PRIMARY KEY, digest TEXT NOT NULL, source TEXT NOT NULL, place TEXT NOT NULL, heading TEXT NOT NULL,
    text TEXT NOT NULL,
    found TEXT NOT NULL               -- kinds of personal data and secrets, as JSON; null where nobody could look
);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Facts:
    """What an index is made of.

    Attributes
    ----------
    model, identity : str
        The encoder, and what tells it from another one of that name.
    size : int
        Characters of a chunk at most.
    documents, chunks, characters : int
        How many there are.
    embedded : int
        Chunks that were embedded when it was last written; the others were known.
    notes : tuple of str
        What was left out of it.
    """

    model: str
    identity: str
    size: int
    documents: int
    chunks: int
    characters: int
    embedded: int
    notes: tuple[str, ...] = ()


class Hit(NamedTuple):
    """A chunk that fits a text: its number, its score, and its ranks from 1 where it is among the first 100."""

    chunk: int
    score: float
    by_words: int | None
    by_meaning: int | None


class Retriever:
    """The chunks of an index, searched by words and by meaning.

    Parameters
    ----------
    folder : Path
        Of an index that was built.
    namespace : mapping, optional
        The notebook's variables, for an encoder that is one of them.

    Raises
    ------
    StoreError
        If there is no index, or it is damaged.
    """

    def __init__(self, folder: Path, namespace: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        if not holds_index(folder):
            known = sorted(one.parent.name for one in folder.parent.glob("*/chunks.sqlite"))
            raise StoreError(f"there is no index {folder.name!r}{nearest(folder.name, known) or known_as(known)}")
        with _explained(folder):
            self._db = sqlite3.connect(
                f"{(folder / 'chunks.sqlite').as_uri()}?mode=ro", uri=True, check_same_thread=False
            )
            told = {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM facts")}
            self.facts = Facts(**told | {"notes": tuple(told["notes"])})
            self._vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        self._words: Any = None
        self._lock = threading.Lock()
        self.embedder = Embedder(self.facts.model, namespace)

    def search(self, text: str, k: int = 5) -> pd.DataFrame:
        """Find the chunks that fit a text.

        Those whose words fit, by BM25 (Robertson et al., 1994; bm25s), and those whose meaning fits, by the cosine of
        their embeddings, each among all chunks; fused by reciprocal rank (Cormack, Clarke and Büttcher, 2009).

        Parameters
        ----------
        text : str
            A question or some words.
        k : int, default 5
            Chunks at most.

        Returns
        -------
        pandas.DataFrame
            Best first, by the number of the chunk: ``source``, ``place``, ``text``, ``score`` (at most 2 / 61),
            ``by_words`` and ``by_meaning``, the ranks from 1, missing where it is none of the first 100.

        Raises
        ------
        DataError
            When there is nothing to look for.
        """
        if not text.strip():
            raise DataError("search: an empty text; write a question or some words")
        if k < 1:
            raise DataError(f"search: k is {k}; write 1 or more")
        (best,) = self.rank([text], k)
        chunks = self.chunks([hit.chunk for hit in best])
        rows = [
            (one.source, one.place, one.text, hit.score, hit.by_words, hit.by_meaning)
            for hit, one in zip(best, chunks, strict=True)
        ]
        columns = ["source", "place", "text", "score", "by_words", "by_meaning"]
        table = pd.DataFrame(rows, columns=columns, index=pd.Index([hit.chunk for hit in best], name="chunk"))
        return table.astype({"by_words": "Int64", "by_meaning": "Int64"})

    def rank(self, texts: Sequence[str], k: int, progress: Progress = silent) -> list[list[Hit]]:
        """Find the chunks that fit each of many texts, as :meth:`search` does; an empty text fits those it may.

        Parameters
        ----------
        texts : sequence of str
            Questions.
        k : int
            Chunks of each at most.
        progress : callable, optional
            Told how far it is.

        Returns
        -------
        list of list of Hit
            Of each text the best first.
        """
        if not texts:
            return []
        found = []
        for number, (text, vector) in enumerate(zip(texts, self.embedder.embed(texts), strict=True)):
            words, meanings = self._by_words(text), _best(self._vectors @ vector)
            by_words, by_meaning = ({one: rank for rank, one in enumerate(way, start=1)} for way in (words, meanings))
            scores: defaultdict[int, float] = defaultdict(float)
            for ranks in (by_words, by_meaning):
                for chunk, rank in ranks.items():
                    scores[chunk] += 1 / (FUSED + rank)
            best = sorted(scores, key=lambda chunk: (-scores[chunk], chunk))[:k]
            found.append([Hit(chunk, scores[chunk], by_words.get(chunk), by_meaning.get(chunk)) for chunk in best])
            if number % 64 == 0:
                progress(number / len(texts), f"searching for {len(texts):,} questions")
        return found

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of what the chunks say, in order, and of what embeds them: equal indexes find the same."""
        with self._lock, _explained(self.folder):
            digests = [digest for (digest,) in self._db.execute("SELECT digest FROM chunks ORDER BY n")]
        return hashlib.sha256("\n".join([self.facts.identity, *digests]).encode()).hexdigest()

    def named(self, name: object, text: str) -> int | None:
        """Find a chunk by what it says, by the hash of that, by its document or by its number.

        Parameters
        ----------
        name : object
            The text of a chunk, with or without its heading; the first 16 digits of its SHA-256 or more, as synthetic
            rows have them in ``chunk_id``; the source of a document; or a number.
        text : str
            Which chunk of a document is meant: that which fits best.

        Returns
        -------
        int or None
            The number of the chunk; None where there is none.
        """
        said = str(name).strip()
        with self._lock, _explained(self.folder):
            query = "SELECT n FROM chunks WHERE text = ?1 OR heading || char(10) || text = ?1"
            query += " OR (length(?1) >= 16 AND substr(digest, 1, length(?1)) = ?1) LIMIT 1"
            exact = self._db.execute(query, (said,)).fetchone()
            of = {n for (n,) in self._db.execute("SELECT n FROM chunks WHERE source = ?", (said,))}
        if exact:
            return int(exact[0])
        if of:
            (ranked,) = self.rank([text], 2 * CANDIDATES) if len(of) > 1 else ([],)
            return next((hit.chunk for hit in ranked if hit.chunk in of), min(of))
        return int(said) if said.isdecimal() and int(said) < self.facts.chunks else None

    def chunks(self, numbers: Sequence[int]) -> list[Chunk]:
        """Read chunks by their numbers."""
        with self._lock, _explained(self.folder):
            query = "SELECT source, place, text, heading FROM chunks WHERE n = ?"
            return [Chunk(*self._db.execute(query, (number,)).fetchone()) for number in numbers]

    def documents(self) -> pd.DataFrame:
        """One row a document: ``source``, ``chunks``, ``characters``."""
        with self._lock, _explained(self.folder):
            query = "SELECT source, count(*), sum(length(text)) FROM chunks GROUP BY source ORDER BY min(n)"
            return pd.DataFrame(self._db.execute(query).fetchall(), columns=["source", "chunks", "characters"])

    def found(self) -> dict[str, tuple[int, str]]:
        """Kinds of personal data and secrets: in how many chunks, and where the first of them is."""
        with self._lock, _explained(self.folder):
            query = "SELECT found, source, place FROM chunks WHERE found NOT IN ('[]', 'null') ORDER BY n"
            rows = self._db.execute(query).fetchall()
        kinds: dict[str, tuple[int, str]] = {}
        for told, source, place in rows:
            for kind in json.loads(told):
                count, first = kinds.get(kind, (0, f"{source}, {place}"))
                kinds[kind] = count + 1, first
        return kinds

    def _by_words(self, text: str) -> list[int]:
        import bm25s

        with self._lock:
            if self._words is None:
                self._words = bm25s.BM25.load(self.folder / "words", mmap=True, show_progress=False)
        asked = _tokens([text])[0]
        known = [word for word in asked if word in self._words.vocab_dict]
        if not known:
            return []
        scores = self._words.get_scores(known)
        return [number for number in _best(scores) if scores[number] > 0]


def build(
    documents: object,
    folder: Path,
    *,
    model: str = MODEL,
    size: int = SIZE,
    namespace: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Retriever:
    """Read documents into an index, or bring one up to date.

    Parameters
    ----------
    documents : object
        What :func:`.reading.read` takes: all that the index shall hold.
    folder : Path
        Where it is kept.
    model : str, default "minilm-l6"
        The encoder.
    size : int, default 800
        Characters of a chunk at most.
    namespace : mapping, optional
        The notebook's variables.
    progress : callable, optional
        Told how far it is.

    Returns
    -------
    Retriever
        The index.

    Raises
    ------
    DataError
        What is wrong with the documents, or that a package is missing.
    StoreError
        If the disk refuses.
    """
    try:
        import bm25s
    except ModuleNotFoundError:
        raise DataError("an index needs bm25s, which is not installed; pip install 'peft_nb[documents]'") from None
    if size < 100:
        raise DataError(f"size: {size} characters are too few for a chunk; write 100 or more")
    progress(0, "reading documents")
    read, notes = reading.read(documents)
    chunks = cut(read, size)
    if not chunks:
        raise DataError("documents: there is no text in them; name others")
    if len(chunks) > MANY:
        notes.append(
            f"each question is compared with all {len(chunks):,} chunks, which takes longer the more there are"
        )
    embedder = Embedder(model, namespace)
    known, vectors = _known(folder, embedder, progress)
    new = list(dict.fromkeys(one.digest for one in chunks if one.digest not in known))
    texts = {one.digest: one.searched for one in chunks}
    looked = {digest: _kinds(texts[digest]) for digest in _told(new, progress)}
    identity = embedder.load(progress).identity
    fresh = embedder.embed([texts[digest] for digest in new], progress) if new else vectors[:0]
    places = {digest: at for at, digest in enumerate(new)}
    facts = Facts(
        *(model, identity, size, len(read), len(chunks), sum(len(one.text) for one in chunks), len(new), tuple(notes))
    )
    progress(1, "writing the index")
    with files.atomic_folder(folder, overwrite=True) as staging:
        rows = [fresh[places[one.digest]] if one.digest in places else vectors[known[one.digest][0]] for one in chunks]
        np.save(staging / "vectors.npy", np.stack(rows), allow_pickle=False)
        words = bm25s.BM25()
        words.index(_tokens([one.searched for one in chunks]), show_progress=False)
        words.save(staging / "words", show_progress=False)
        with closing(sqlite3.connect(staging / "chunks.sqlite")) as db, db:
            db.executescript(SCHEMA)
            found = {**{digest: kinds for digest, (_, kinds) in known.items()}, **looked}
            db.executemany(
                "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (number, one.digest, one.source, one.place, one.heading, one.text, json.dumps(found[one.digest]))
                    for number, one in enumerate(chunks)
                ],
            )
            db.executemany(
                "INSERT INTO facts VALUES (?, ?)", [(key, json.dumps(told)) for key, told in vars(facts).items()]
            )
    return Retriever(folder, namespace)


def folder_of(name: str, store: Path) -> Path:
    """The folder of an index in a store.

    Raises
    ------
    StoreError
        If the name cannot be that of a folder.
    """
    if not NAME.fullmatch(name):
        raise StoreError(f"{name!r} cannot name an index; use up to 64 letters, digits, '.', '_' and '-'")
    return store / "indexes" / name


def holds_index(folder: Path) -> bool:
    """Whether a folder is that of an index."""
    return (folder / "chunks.sqlite").is_file()


def known_as(names: Sequence[str]) -> str:
    """Say which indexes there are."""
    return f"; there are {', '.join(names)}" if names else "; make one with peft_nb.index(documents, name=…)"


def _known(
    folder: Path, embedder: Embedder, progress: Progress
) -> tuple[dict[str, tuple[int, list[str] | None]], np.ndarray]:
    """What an earlier index knows, by digest: the row of the vector and what was found; and the vectors."""
    with suppress(StoreError):  # none, or a damaged one, which is made anew
        before = Retriever(folder)
        if before.facts.model == embedder.model and before.facts.identity == embedder.load(progress).identity:
            rows = before._db.execute("SELECT digest, n, found FROM chunks").fetchall()
            looked = pii.available()
            told = {digest: (n, json.loads(found)) for digest, n, found in rows}
            return {one: told[one] for one in told if told[one][1] is not None or not looked}, before._vectors
    return {}, np.zeros((0, 1), dtype=np.float32)


def _told(digests: Sequence[str], progress: Progress) -> Iterator[str]:
    for number, digest in enumerate(digests):
        if number % 64 == 0:
            progress(number / len(digests), "looking for personal data and secrets")
        yield digest


def _kinds(text: str) -> list[str] | None:
    """Kinds of what should perhaps not be found by everybody; None where personal data cannot be looked for."""
    if not pii.available():
        return [*{one.kind: None for one in secrets(text)}] or None
    return [*{one.kind: None for one in (*pii.personal(text), *secrets(text))}]


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    return bm25s.tokenize(list(texts), token_pattern=WORD, stopwords=[], return_ids=False, show_progress=False)


def _best(scores: np.ndarray) -> list[int]:
    """The numbers of the highest, best first; of equal ones the earlier first."""
    few = np.argpartition(-scores, CANDIDATES)[:CANDIDATES] if len(scores) > CANDIDATES else np.arange(len(scores))
    return [int(number) for number in sorted(few, key=lambda number: (-scores[number], number))]


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"the index {folder.name} in {folder} is damaged ({error}); build it again") from error
