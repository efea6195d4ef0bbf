"""Cells as JSON could hold them."""

from __future__ import annotations

import json
import uuid
from collections import OrderedDict
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import IntEnum, StrEnum
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from peft_nb.data.cells import from_arrow, plain

ID = "12345678-1234-5678-1234-567812345678"


def objects(*cells: Any) -> np.ndarray:
    """An array of objects, as pandas makes one of each list in an Arrow table."""
    array = np.empty(len(cells), dtype=object)
    array[:] = cells
    return array


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        ("nan", "nan"),
        (True, True),
        (10**20, 10**20),
        (0.5, 0.5),
        (30.0, 30.0),  # a cell alone cannot tell what its column was
        (np.int64(3), 3),
        (np.float64(0.5), 0.5),
        (np.bool_(True), True),
        (np.array([1, 2]), [1, 2]),
        (np.array([[1.5], [2.5]]), [[1.5], [2.5]]),
        (np.array(["2024-01-31", "NaT"], "datetime64[ns]"), ["2024-01-31 00:00:00", None]),
        (np.array(["2024-01-31"], "datetime64[D]"), ["2024-01-31"]),
        (np.array([90], "timedelta64[ns]"), ["0:00:00"]),
        (np.str_("a"), "a"),
        (StrEnum("Colour", ["red"])("red"), "red"),
        (IntEnum("Size", ["one"])(1), 1),
        (np.timedelta64(90, "s"), "0:01:30"),
        (float("nan"), None),
        (pd.NA, None),
        (pd.NaT, None),
        (Decimal("12.50"), "12.50"),
        (Decimal("30"), 30),
        (Decimal("3E+2"), 300),
        (Decimal("NaN"), None),
        (date(2024, 1, 31), "2024-01-31"),
        (datetime(2024, 1, 31, 8, 30), "2024-01-31 08:30:00"),
        (pd.Timestamp("2024-01-31 08:30"), "2024-01-31 08:30:00"),
        (time(8, 30), "08:30:00"),
        (timedelta(minutes=90), "1:30:00"),
        (b"caf\xc3\xa9", "café"),
        (uuid.UUID(ID), ID),
        (PurePosixPath("a/b"), "a/b"),
        ((1, (2, 3)), [1, [2, 3]]),
        pytest.param({"b", "a"}, ["a", "b"], id="a set"),
        (OrderedDict(a=1), {"a": 1}),
        ({1: {"x": float("nan")}}, {"1": {"x": None}}),
        (pd.Series([1, 2]), [1, 2]),
        (pa.scalar([{"a": 1}]), [{"a": 1}]),
    ],
    ids=repr,
)
def test_a_cell_is_what_json_could_hold_wherever_it_stands(cell: Any, wanted: Any) -> None:
    for found, expected in ((plain(cell), wanted), (plain({"x": [(cell,)]}), {"x": [[wanted]]})):
        assert found == expected
        assert json.loads(json.dumps(found)) == expected
    assert type(plain(cell)) is type(wanted)


def test_what_json_cannot_hold_is_left_for_those_who_know_it() -> None:
    image, thing = b"\x89PNG", object()
    assert plain([image, thing]) == [image, thing]


def test_arrays_of_objects_were_made_by_arrow_and_dicts_in_them_have_no_keys_without_a_value() -> None:
    call = {"name": "f", "arguments": {"x": 1.0, "y": None, "z": objects("a", None)}}
    message = {"role": "assistant", "content": None, "tool_calls": objects(call), "name": None}
    wanted = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"name": "f", "arguments": {"x": 1, "z": ["a", None]}}],
    }
    assert plain(objects(message)) == [wanted]
    assert plain(message) == from_arrow(message) == wanted
    assert json.dumps(plain(message)["tool_calls"][0]["arguments"]["x"]) == "1"


def test_a_null_that_no_library_wrote_stays() -> None:
    cell = {"x": 1.0, "y": None, "z": [{"a": None}]}
    assert plain(cell) == cell
    assert from_arrow(cell) == {"x": 1, "z": [{}]}
    assert from_arrow(None) is None
    assert repr(from_arrow(30.0)) == "30.0"


def test_maps_of_arrow_are_dicts() -> None:
    assert from_arrow([("a", 1), ("b", None)]) == {"a": 1}
    assert plain([("a", 1), ("b", None)]) == [["a", 1], ["b", None]]
