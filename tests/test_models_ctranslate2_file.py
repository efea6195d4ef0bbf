"""CTranslate2's files are read without the package ctranslate2."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy
import pytest

from peft_nb.models import ctranslate2_file


def named(name: str) -> bytes:
    return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"


def content(kind: str, weights: Mapping[str, numpy.ndarray], aliases: Mapping[str, str] | None = None) -> bytes:
    """A whole file."""
    found = struct.pack("<I", 6) + named(kind) + struct.pack("<II", 3, len(weights))
    for name, one in weights.items():
        found += named(name) + struct.pack(f"<B{one.ndim}I", one.ndim, *one.shape)
        found += struct.pack("<BI", ctranslate2_file.TYPES.index(one.dtype.str), one.nbytes) + one.tobytes()
    found += struct.pack("<I", len(aliases or {}))
    return found + b"".join(named(alias) + named(name) for alias, name in (aliases or {}).items())


def test_weights_come_as_they_were_written_also_in_parts(tmp_path: Path) -> None:
    weights = {"a/weight": numpy.arange(6, dtype="<f2").reshape(2, 3), "scale": numpy.array(2.0, "<f4")}
    whole = content("WhisperSpec", weights, {"b/weight": "a/weight"})
    parts = [tmp_path / "1", tmp_path / "2"]
    parts[0].write_bytes(whole[:40])
    parts[1].write_bytes(whole[40:])
    kind, found = ctranslate2_file.read(parts)
    assert (kind, list(found)) == ("WhisperSpec", ["a/weight", "scale", "b/weight"])
    numpy.testing.assert_array_equal(found["b/weight"], weights["a/weight"])
    assert found["scale"] == 2


@pytest.mark.parametrize("cut", [slice(0), slice(20), slice(-1)])
def test_what_is_no_whole_file_is_refused(cut: slice, tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(content("WhisperSpec", {"a": numpy.zeros(3, "<f4")})[cut])
    with pytest.raises(ValueError, match="it is not whole"):
        ctranslate2_file.read([file])
    file.write_bytes(b"hello, world")
    with pytest.raises(ValueError, match="it is no model of CTranslate2"):
        ctranslate2_file.read([file])
    file.write_bytes(content("WhisperSpec", {}) + b"\0")
    with pytest.raises(ValueError, match="it is longer than it says"):
        ctranslate2_file.read([file])
