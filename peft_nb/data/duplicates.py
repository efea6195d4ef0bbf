"""Rows that say the same: exact duplicates for any number of rows, near duplicates by MinHash.

Two texts are exact duplicates when they are equal after NFKC, case folding and collapsing white space. They are
near duplicates when they state the same facts in the same order and share at least the threshold of their shingles:

- Shingles are single words together with pairs of neighbouring words, without case and punctuation. One word put
  in, left out or at an end changes three shingles at most, one word replaced six, so in texts under 14 words a
  replaced word is never a near duplicate: "What does shipping to Norway cost?" and "… to Sweden cost?" share 57%.
- Facts are numbers, symbols and names (words with a capital inside a sentence). Rows from one template that differ
  in nothing else, however long, are not near duplicates. In languages that capitalise every noun this errs
  towards keeping rows.

MinHash: A. Broder, "On the resemblance and containment of documents" (1997), as in datasketch; its banding: Leskovec,
Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.uint32]]

Progress = Callable[[float, str], None]

NEAR_ROWS = 50_000  # above this only exact duplicates are looked for
PERMUTATIONS = 128  # hash values a text
FOUND = 0.99  # share of the pairs at the threshold that become candidates
COMPARED = 8  # candidates before a row in its bucket: keeps the work linear where thousands of rows share a template

# Scripts without spaces count by character; punctuation of sentences and quotes does not count; all other symbols do.
_SPACELESS = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+|[^\w\s.,;:!?'\"()\[\]{{}}…‘’“”„‚«»‹›¡¿–—-]")


def groups(texts: Sequence[str], *, threshold: float = 0.8, progress: Progress | None = None) -> list[int]:
    """Group the texts that are exact or near duplicates of each other.

    The result depends on the texts alone: not on the machine, the process or Python's hash seed.

    Parameters
    ----------
    texts : sequence of str
        One text a row. Above `NEAR_ROWS` texts only exact duplicates are found.
    threshold : float, default 0.8
        Least Jaccard similarity of the shingles of near duplicates, in (0, 1].
    progress : callable, optional
        Called with the share that is done (0 to 1) and what is being done.

    Returns
    -------
    list of int
        For each text the number of the first text of its group; a text alone has its own number.
    """
    first: dict[bytes, int] = {}
    leader = [first.setdefault(_fingerprint(text), row) for row, text in enumerate(texts)]
    if len(texts) > NEAR_ROWS:
        return leader
    distinct = list(first.values())

    def root(row: int) -> int:
        while leader[row] != row:
            leader[row] = row = leader[leader[row]]
        return row

    sets = [_shingles(texts[row]) for row in distinct]
    for one, other in _candidates(sets, threshold, progress):
        a, b = sorted((root(distinct[one]), root(distinct[other])))
        if a != b and _jaccard(sets[one], sets[other]) >= threshold:
            leader[b] = a
    return [root(row) for row in range(len(texts))]


def shared(
    train: Sequence[str], evaluation: Sequence[str], *, threshold: float = 0.8, progress: Progress | None = None
) -> list[tuple[int, int]]:
    """Find evaluation texts that are, exactly or nearly, also trained on.

    Parameters
    ----------
    train, evaluation : sequence of str
        The two sets; together at most `NEAR_ROWS` texts, or only exact duplicates are found.
    threshold, progress
        As for :func:`groups`.

    Returns
    -------
    list of (int, int)
        For each such evaluation text the number of the first training text of its group, and its own number.
    """
    numbers = groups([*train, *evaluation], threshold=threshold, progress=progress)
    return [(first, row) for row, first in enumerate(numbers[len(train) :]) if first < len(train)]


def _fingerprint(text: str) -> bytes:
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _shingles(text: str) -> Array:
    """Hash words and pairs of words; texts with other facts get hashes that have nothing in common."""
    import numpy

    text = unicodedata.normalize("NFKC", text)
    found = [(match.start(), match.group()) for match in _WORD.finditer(text)]
    facts = " ".join(word for start, word in found if _is_fact(text, start, word)).casefold()
    words = numpy.array([_hash(word.casefold()) for _, word in found], numpy.uint32)
    pairs = words[:-1] * numpy.uint32(0x9E3779B1) + words[1:] * numpy.uint32(0x85EBCA77)
    return numpy.unique(numpy.concatenate([words, pairs])) ^ numpy.uint32(_hash(facts))


def _hash(word: str) -> int:
    return crc32(word.encode("utf-8", "surrogatepass"))


def _is_fact(text: str, start: int, word: str) -> bool:
    """Tell numbers, symbols and names from other words."""
    if any(map(str.isdigit, word)) or not any(map(str.isalpha, word)):
        return True
    inside = text[start - 1 : start] == " " and text[start - 2 : start - 1].isalnum() or text[:start].endswith(", ")
    return inside and len(word) > 1 and word[0].isupper() and not text.isupper()


def _jaccard(one: Array, other: Array) -> float:
    import numpy

    both = len(numpy.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)


def _candidates(sets: Sequence[Array], threshold: float, progress: Progress | None) -> Iterator[tuple[int, int]]:
    """Pair the texts whose MinHashes agree in all values of at least one band.

    The bands are sorted one after the other: datasketch's own index answers with whole buckets, and a bucket that holds
    thousands of rows makes that quadratic.
    """
    import numpy
    from datasketch import MinHash

    rows = [row for row, shingles in enumerate(sets) if len(shingles)]
    if not rows:
        return
    empty = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int, scheme="affine32")
    signatures = numpy.empty((len(rows), PERMUTATIONS), numpy.uint32)
    for done, row in enumerate(rows):
        minhash = empty.copy()
        minhash.update_batch(sets[row].tolist())
        signatures[done] = minhash.hashvalues
        if progress and done % 1000 == 0:
            progress(done / len(rows), "looking for near duplicates")
    size = max(
        size for size in range(1, 33) if 1 - (1 - threshold**size) ** (PERMUTATIONS // size) >= FOUND or size == 1
    )
    for begin in range(0, PERMUTATIONS - size + 1, size):
        band = signatures[:, begin : begin + size]
        order = numpy.lexsort(band.T)
        same = (band[order[1:]] == band[order[:-1]]).all(axis=1)
        run = 0  # how many rows before this one lie in the same bucket
        for place, joined in enumerate(same.tolist(), 1):
            run = min(run + 1, COMPARED) if joined else 0
            yield from ((rows[order[place - back]], rows[order[place]]) for back in range(1, run + 1))
    if progress:
        progress(1.0, "looking for near duplicates")
