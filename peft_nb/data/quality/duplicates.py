"""Rows that say the same: exact duplicates for any number of rows, near-duplicates by MinHash.

Two texts are exact duplicates when they are equal after NFKC, case folding and collapsing white space. They are
near-duplicates when they state the same facts in the same order and share at least the threshold of their shingles:

- Shingles are single words together with pairs of neighbouring words, without case and punctuation. One word put
  in, left out or at an end changes three shingles at most, one word replaced six, so in texts under 14 words a
  replaced word is never a near-duplicate: "What does shipping to Norway cost?" and "… to Sweden cost?" share 57%.
- Facts are numbers, symbols and names (words with a capital inside a sentence). Rows from one template that differ
  in nothing else, however long, are not near-duplicates. In languages that capitalise every noun this errs
  towards keeping rows.

MinHash: A. Broder, "On the resemblance and containment of documents" (1997), as in datasketch; its banding: Leskovec,
Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from zlib import crc32

from peft_nb.events import Progress
from peft_nb.system.lazy import late

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.uint32]]

NEAR_ROWS = 50_000  # above this only exact duplicates are looked for
PERMUTATIONS = 128  # hash values a text
FOUND = 0.99  # share of the pairs at the threshold that become candidates
MARGIN = 0.12  # by how much the estimate of a pair at the threshold may be too low: 3.4 standard deviations
COMPARED = 32  # rows compared before a row in its bucket: keeps the work linear where thousands share a pattern

# Scripts without spaces count by character; punctuation of sentences and quotes does not count; all other symbols do.
_SPACELESS = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+|[^\w\s.,;:!?'\"()\[\]{{}}…‘’“”„‚«»‹›¡¿–—-]")


def groups(texts: Sequence[str], *, threshold: float = 0.8, progress: Progress | None = None) -> list[int]:
    """Group the texts that are exact or near-duplicates of each other.

    The result depends on the texts alone: not on the machine, the process or Python's hash seed.

    Parameters
    ----------
    texts : sequence of str
        One text a row. Above `NEAR_ROWS` texts only exact duplicates are found.
    threshold : float, default 0.8
        Least Jaccard similarity of the shingles of near-duplicates, in (0, 1].
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
    near = dict(zip(distinct, _near([_shingles(texts[row]) for row in distinct], threshold, progress), strict=True))
    return [distinct[near[row]] for row in leader]


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


def alike(one: str, other: str, *, threshold: float = 0.8) -> bool:
    """Tell whether two texts are exact or near-duplicates of each other; parameters as for :func:`groups`."""
    short, long = sorted((len(one), len(other)))
    if short < 0.5 * long:  # spares the work: so different in length they share too little
        return False
    a, b = _shingles(one), _shingles(other)
    return _jaccard(a, b) >= threshold if len(a) and len(b) else _fingerprint(one) == _fingerprint(other)


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
    before = text[max(start - 2, 0) : start]
    inside = before == ", " or (before[:1].isalnum() and before[1:] == " ")
    return inside and len(word) > 1 and word[0].isupper() and not text.isupper()


def _jaccard(one: Array, other: Array) -> float:
    import numpy

    both = len(numpy.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)


def _near(sets: Sequence[Array], threshold: float, progress: Progress | None) -> list[int]:
    """Number the sets by the first of their group.

    Candidates agree in all values of at least one band of their MinHashes, as in datasketch's own index; but that one
    answers with whole buckets, which is quadratic where thousands of rows share a bucket. Here the rows are sorted band
    by band, and each is compared with the `COMPARED` rows before it in its bucket, unless already in one group.
    """
    import numpy

    with late("scipy.integrate:quad"):  # for an index that is not used here
        from datasketch import MinHash

    empty = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int, scheme="affine32")
    signatures: Array = numpy.empty((len(sets), PERMUTATIONS), numpy.uint32)
    for row, shingles in enumerate(sets):
        minhash = empty.copy()
        if len(shingles):
            minhash.update_batch(shingles.tolist())
        signatures[row] = minhash.hashvalues
        if progress and row % 1000 == 0:
            progress(row / len(sets), "looking for near-duplicates")
    leader = numpy.arange(len(sets))
    size = next(
        size for size in range(32, 0, -1) if size == 1 or 1 - (1 - threshold**size) ** (PERMUTATIONS // size) >= FOUND
    )
    for begin in range(0, PERMUTATIONS - size + 1, size):
        band = signatures[:, begin : begin + size]
        order = numpy.lexsort(band.T)
        bucket = numpy.cumsum(numpy.append(0, (band[order[1:]] != band[order[:-1]]).any(axis=1)))
        for back in range(1, COMPARED + 1):
            joined = numpy.flatnonzero(bucket[back:] == bucket[:-back])
            if not len(joined):
                break
            one, other = order[joined], order[joined + back]
            apart = leader[one] != leader[other]
            one, other = one[apart], other[apart]
            likely = (signatures[one] == signatures[other]).mean(axis=1) > threshold - MARGIN
            for pair in zip(one[likely].tolist(), other[likely].tolist(), strict=True):
                if len(sets[pair[0]]) and _jaccard(*(sets[row] for row in pair)) >= threshold:
                    low, high = sorted(_first(leader, row) for row in pair)
                    leader[high] = low
            while (leader != leader[leader]).any():
                leader = leader[leader]
    if progress:
        progress(1.0, "looking for near-duplicates")
    return leader.tolist()


def _first(leader: numpy.ndarray[Any, Any], row: int) -> int:
    while leader[row] != row:
        row = int(leader[row])
    return row
