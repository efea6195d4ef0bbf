"""What an ONNX file holds, read without the package onnx: its nodes, and its initializers as arrays.

The file is a protocol buffer (onnx.proto: Model.graph 7; Graph.node 1, initializer 5; Node.input 1, output 2,
op_type 4; Tensor.dims 1, data_type 2, name 8, raw_data 9), of which only these fields are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

FLOAT = 1  # data_type of float32
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


@dataclass(frozen=True)
class Node:
    """One operation: its kind, and the names of what it takes and gives."""

    kind: str
    inputs: list[str]
    outputs: list[str]


@dataclass(frozen=True)
class Graph:
    """The nodes of a file in order, and its weights by name, float32."""

    nodes: list[Node] = field(default_factory=list)
    weights: dict[str, numpy.ndarray] = field(default_factory=dict)


def read(file: Path) -> Graph:
    """Read a file.

    Parameters
    ----------
    file : Path
        An ONNX file whose weights lie in it.

    Returns
    -------
    Graph
        Weights that are no float32 are left out.

    Raises
    ------
    ValueError
        The file is no whole ONNX file.
    """
    found = Graph()
    for number, graph in _fields(memoryview(file.read_bytes())):
        for part, content in _fields(graph) if number == 7 else ():
            if part == 1:
                found.nodes.append(_node(content))
            elif part == 5:
                name, array = _tensor(content)
                if array is not None:
                    found.weights[name] = array
    if not found.nodes:
        raise ValueError("it holds no graph")
    return found


def _node(content: memoryview) -> Node:
    inputs, outputs, kind = list[str](), list[str](), ""
    for number, value in _fields(content):
        if number in (1, 2):
            (inputs if number == 1 else outputs).append(bytes(value).decode())
        elif number == 4:
            kind = bytes(value).decode()
    return Node(kind, inputs, outputs)


def _tensor(content: memoryview) -> tuple[str, numpy.ndarray | None]:
    import numpy

    shape, kind, name, raw = list[int](), 0, "", memoryview(b"")
    for number, value in _fields(content):
        if number == 1:
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == 2:
            kind = value
        elif number == 8:
            name = bytes(value).decode()
        elif number == 9:
            raw = value
    return name, numpy.frombuffer(raw, "<f4").reshape(shape) if kind == FLOAT and len(raw) else None


def _fields(content: memoryview) -> Iterator[tuple[int, Any]]:
    """The fields of a message: numbers, or the bytes of texts and of messages inside."""
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, place = _varint(content, place)
            yield number, value
            continue
        if wire == BYTES:
            size, place = _varint(content, place)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError("it is no protocol buffer")
        if place + size > len(content):
            raise ValueError("it is not whole")
        yield number, content[place : place + size]
        place += size


def _varints(content: memoryview) -> list[int]:
    found, place = [], 0
    while place < len(content):
        value, place = _varint(content, place)
        found.append(value)
    return found


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(content) and shift < 64:
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("it is no protocol buffer, or not whole")
