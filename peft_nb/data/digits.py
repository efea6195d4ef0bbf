"""The built-in ``digits``: 1,797 handwritten digits of 43 people, out of scikit-learn (Alpaydin and Kaynak, 1998)."""

from __future__ import annotations

from typing import Any

HELD_OUT = 300  # the last ones, of people who wrote none of the others
SCALE = 4  # pixels a side for each of the 8 × 8


def load() -> dict[str, list[dict[str, Any]]]:
    """Read the digits.

    Returns
    -------
    dict of str to list of dict
        ``train`` and ``eval``: rows with ``image``, an array of 32 × 32 of whole numbers up to 255, and ``label``.
    """
    import numpy
    from sklearn.datasets import load_digits

    found = load_digits()
    images = numpy.kron(found.images * (255 / 16), numpy.ones((1, SCALE, SCALE))).astype("uint8")
    rows = [{"image": image, "label": str(label)} for image, label in zip(images, found.target, strict=True)]
    return {"train": rows[:-HELD_OUT], "eval": rows[-HELD_OUT:]}
