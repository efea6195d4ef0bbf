"""Encoded examples on disk, so that a run resumes without the data it was started on."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

from peft_nb.data.encoding import Example
from peft_nb.files import writing


def save_examples(path: Path, train: Sequence[Example], held_out: Sequence[Example]) -> None:
    """Write training and held-out examples to one safetensors file.

    Parameters
    ----------
    path : Path
        The file.
    train, held_out : sequence of Example
        What to write.

    Raises
    ------
    StoreError
        If the disk refuses.
    """
    import numpy
    from safetensors.numpy import save_file

    both = [*train, *held_out]
    tensors = {
        "ids": numpy.concatenate([numpy.asarray(one.ids, dtype=numpy.int32) for one in both]),
        "supervised": numpy.frombuffer(b"".join(one.supervised for one in both), dtype=numpy.uint8),
        "lengths": numpy.array([len(one.ids) for one in both], dtype=numpy.int64),
        "train": numpy.array([len(train)], dtype=numpy.int64),
    }
    with writing(path):
        staging = path.with_suffix(".new")
        save_file(tensors, staging)
        staging.replace(path)


def load_examples(path: Path) -> tuple[list[Example], list[Example]]:
    """Read back what :func:`save_examples` wrote.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    tuple of list of Example and list of Example
        Training and held-out examples.
    """
    from safetensors.numpy import load_file

    tensors = load_file(path)
    ids, supervised = tensors["ids"], tensors["supervised"].tobytes()
    examples, start = [], 0
    for length in tensors["lengths"].tolist():
        stop = start + length
        examples.append(Example(array("i", ids[start:stop].tobytes()), supervised[start:stop]))
        start = stop
    count = int(tensors["train"][0])
    return examples[:count], examples[count:]
