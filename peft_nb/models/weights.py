"""Which weights a base has: a hash that tells two bases apart and does not read gigabytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft_nb.models.load import Base

BLOCKS, BLOCK = 64, 1 << 16  # read of a file: the whole of one up to 4 MB
VALUES = 1024  # read of a tensor in memory


def fingerprint(base: Base) -> str:
    """Hash samples of a base's weights; further training changes all of them and cannot stay unseen.

    Parameters
    ----------
    base : Base
        What was loaded.

    Returns
    -------
    str
        SHA-256 over the name, the size and evenly spaced blocks of each safetensors file (of a pipeline, of each of its
        parts), whatever they are loaded as; over evenly spaced values of each tensor where the base is a live model.
    """
    digest = hashlib.sha256()
    live = base.source.pair[0] if base.source.pair else base.model
    for part in _files(base.folder) if base.folder and not base.source.pair else _tensors(live):
        digest.update(part)
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*/*.safetensors")):
        size = path.stat().st_size
        yield f"{path.name} {size}\n".encode()
        with path.open("rb") as file:
            for place in range(BLOCKS):
                file.seek(place * max(size - BLOCK, 0) // (BLOCKS - 1))
                yield file.read(BLOCK)


def _tensors(model: Any) -> Iterator[bytes]:
    for name, tensor in sorted(model.named_parameters()):
        values = tensor.detach().flatten()
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
        yield values[:: max(1, len(values) // VALUES)].float().cpu().numpy().tobytes()
