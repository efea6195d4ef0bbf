"""ONNX files are read without the package onnx."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from peft_nb.models import onnx_file


def field(number: int, content: bytes | int) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def tensor(name: str, array: numpy.ndarray, kind: int = 1) -> bytes:
    shape = b"".join(varint(side) for side in array.shape)
    return field(1, shape) + field(2, kind) + field(8, name.encode()) + field(9, array.tobytes())


def model(*parts: bytes) -> bytes:
    return field(1, 8) + field(7, b"".join(parts))


def test_nodes_and_weights_come_as_they_were_written(tmp_path: Path) -> None:
    weight = numpy.arange(600, dtype="float32").reshape(3, 200)
    node = field(1, b"x") + field(1, b"w") + field(2, b"y") + field(3, b"name") + field(4, b"MatMul")
    file = tmp_path / "a.onnx"
    file.write_bytes(
        model(field(1, node), field(5, tensor("w", weight)), field(5, tensor("n", weight.astype("<i8"), 7)))
    )
    found = onnx_file.read(file)
    assert found.nodes == [onnx_file.Node("MatMul", ["x", "w"], ["y"])]
    assert list(found.weights) == ["w"]
    numpy.testing.assert_array_equal(found.weights["w"], weight)


@pytest.mark.parametrize("content", [b"", b"hello", model(field(1, field(4, b"Add")))[:-2], b"\xff" * 20])
def test_what_is_no_whole_file_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="it "):
        onnx_file.read(file)
