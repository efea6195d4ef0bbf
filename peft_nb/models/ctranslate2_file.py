"""What the `model.bin` of CTranslate2 holds, read without the package ctranslate2: its weights as arrays.

The file (version 6 of its format) names the kind of model, then lists variables, each with name, shape, number type
and bytes, and ends with aliases, which are further names of some of them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

VERSION = 6
TYPES = ("<f4", "|i1", "<i2", "<i4", "<f2")  # by the number that stands for them


def read(files: Sequence[Path]) -> tuple[str, dict[str, numpy.ndarray]]:
    """Read a file, which may lie in parts.

    Parameters
    ----------
    files : sequence of Path
        The file, or its parts in order.

    Returns
    -------
    tuple of str and dict of str to numpy.ndarray
        The kind of model, such as ``WhisperSpec``, and its weights by name, in the number type of the file.

    Raises
    ------
    ValueError
        They are no whole file of this format.
    """
    import numpy

    content = _Content(b"".join(file.read_bytes() for file in files))
    if content.number("I") != VERSION:
        raise ValueError("it is no model of CTranslate2 in version 6 of its format")
    kind, _, weights = content.text(), content.number("I"), dict[str, numpy.ndarray]()
    for _ in range(content.number("I")):
        name = content.text()
        shape = [content.number("I") for _ in range(content.number("B"))]
        kind_of_number = content.number("B")
        weights[name] = numpy.frombuffer(content.taken(content.number("I")), TYPES[kind_of_number]).reshape(shape)
    for _ in range(content.number("I")):
        alias = content.text()
        weights[alias] = weights[content.text()]
    if content.place != len(content.held):
        raise ValueError("it is longer than it says")
    return kind, weights


class _Content:
    """Bytes that are read from front to back."""

    def __init__(self, held: bytes) -> None:
        self.held, self.place = memoryview(held), 0

    def number(self, form: str) -> int:
        return int(struct.unpack(f"<{form}", self.taken(struct.calcsize(f"<{form}")))[0])

    def text(self) -> str:
        return bytes(self.taken(self.number("H"))).rstrip(b"\0").decode()

    def taken(self, size: int) -> memoryview:
        if self.place + size > len(self.held):
            raise ValueError("it is not whole")
        self.place += size
        return self.held[self.place - size : self.place]
