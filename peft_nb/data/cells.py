"""Cells as JSON could hold them, whatever library they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any
from uuid import UUID

Converter = Callable[[Any], Any]

EXACT = 2**53  # above it a float no longer tells one whole number from the next
WRITTEN = (date, time, timedelta, UUID, PurePath)  # what str() writes as people do
JSON = {str, int, float, bool, list, dict, type(None)}
MISSING = ("NAType", "NaTType")
PIXELS, SAMPLES = "uifb", "uif"  # kinds of numbers
FEWEST = 4_000  # numbers of an array that is kept as it is, a quarter of a second of sound; fewer become a list


def plain(cell: Any) -> Any:
    """Turn one cell into what JSON could hold, all the way down.

    Parameters
    ----------
    cell : object
        A value as a data frame, a data set or Python code gives it.

    Returns
    -------
    object
        None for NaN, NaT and NA; Python's own numbers, lists and dicts for those of numpy and Arrow, for tuples and
        for sets (sorted); text for dates, times, bytes that are UTF-8 and Decimals with digits after the point;
        anything else unchanged, such as images and arrays that may be some, or sound.
        What an array of objects holds was made by Arrow: see :func:`from_arrow`.
    """
    return cell if type(cell) is str else _plain(cell, False)


def from_arrow(cell: Any) -> Any:
    """Turn one cell of an Arrow table into what JSON could hold, as it was before Arrow gave all rows the same keys.

    Parameters
    ----------
    cell : object
        A value as ``to_pylist`` gives it.

    Returns
    -------
    object
        As of :func:`plain`. In dicts, keys without a value are left out, for Arrow adds them where another row has
        them; inside dicts and lists, whole floats are integers, for Arrow makes them floats where another row has a
        fraction or no number; lists of key and value, which are Arrow's maps, are dicts.
    """
    return cell if type(cell) is str else _plain(cell, isinstance(cell, (dict, list)))


def numbers(cells: Iterable[Any]) -> Converter:
    """Choose how to read a column: where all its floats are whole, they were integers before one was missing."""
    floats = (cell for cell in cells if isinstance(cell, float) and cell == cell)
    first = next(floats, None)
    return plain if first is None or fraction(first) or any(map(fraction, floats)) else integer


def times(cells: Iterable[Any]) -> Converter:
    """Choose how to read a column of times: where all are midnight, they are days."""
    known = (cell for cell in cells if isinstance(cell, datetime) and cell == cell)  # NaT is not equal to itself
    return day if all(cell.time() == time() for cell in known) else plain


def of_arrow(table: Any) -> dict[str, Converter]:
    """Choose how to read each column of a pyarrow.Table, or of what a Dataset wraps around it."""
    chosen = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = str(column.type).partition("[")[0]
        cells = (cell for chunk in column.chunks for cell in chunk.to_pylist())
        chosen[name] = ARROW[kind](cells) if kind in ARROW else from_arrow
    return chosen


def of_frame(frame: Any) -> dict[str, Converter]:
    """Choose how to read each column of a pandas.DataFrame."""
    chosen = {}
    for place, (name, dtype) in enumerate(zip(map(str, frame.columns), frame.dtypes, strict=True)):
        if choose := PANDAS.get(dtype.kind) or PANDAS.get(dtype.name):
            chosen[name] = choose(frame.iloc[:, place])
        elif hasattr(dtype, "pyarrow_dtype"):
            chosen[name] = from_arrow
    return chosen


def fraction(cell: Any) -> bool:
    """Tell whether a cell is a float that is no whole number, or too large to say which."""
    return isinstance(cell, float) and cell == cell and not (cell.is_integer() and abs(cell) <= EXACT)


def integer(cell: Any) -> Any:
    """Read a cell of a column that has no :func:`fraction`."""
    value = plain(cell)
    return int(value) if isinstance(value, float) else value


def day(cell: Any) -> Any:
    """Read a cell of a column of days."""
    value = plain(cell)
    return value and value[:10]


PANDAS = {"f": numbers, "object": numbers, "M": times}
ARROW = {**dict.fromkeys(("halffloat", "float", "double"), numbers), "timestamp": times}


def _plain(cell: Any, arrow: bool) -> Any:
    kind = type(cell)
    if kind is str or kind is int or kind is bool or cell is None:
        return cell
    if isinstance(cell, (str, int)):  # of numpy, or a member of an Enum
        return str.__str__(cell) if isinstance(cell, str) else int(cell)
    if isinstance(cell, float):
        if cell != cell:
            return None
        return int(cell) if arrow and not fraction(cell) else float(cell)
    if kind is dict or isinstance(cell, Mapping):
        arrow = arrow or any(type(value) not in JSON and _made_by_arrow(value) for value in cell.values())
        plained = {str(key): value if type(value) is str else _plain(value, arrow) for key, value in cell.items()}
        if not arrow:
            return plained
        # A message that only calls tools says nothing: its content stays, as the sign of a message.
        kept = "content" if "role" in plained else None
        return {key: value for key, value in plained.items() if value is not None or key == kept}
    if isinstance(cell, (list, tuple)):
        if arrow and cell and all(isinstance(pair, tuple) and len(pair) == 2 for pair in cell):
            return _plain(dict(cell), arrow)
        return [_plain(value, arrow) for value in cell]
    return _foreign(cell, arrow)


def _foreign(cell: Any, arrow: bool) -> Any:
    """Turn what is none of JSON's own kinds into one of them."""
    if type(cell).__name__ in MISSING:
        return None
    if isinstance(cell, (set, frozenset)):
        return sorted((_plain(value, arrow) for value in cell), key=str)
    if isinstance(cell, (bytes, bytearray)):  # some writers of parquet do not say that their bytes are text
        try:
            return cell.decode("utf-8")
        except UnicodeDecodeError:
            return cell
    if isinstance(cell, Decimal):
        text = f"{cell:f}"
        return None if cell.is_nan() else int(text) if cell.is_finite() and "." not in text else text
    if isinstance(cell, WRITTEN):
        return str(cell)
    if hasattr(cell, "tolist"):
        kind = getattr(getattr(cell, "dtype", None), "kind", "")
        if kind in PIXELS and getattr(cell, "ndim", 0) in (2, 3) and min(cell.shape[:2]) > 1:
            return cell  # an image
        if kind in SAMPLES and getattr(cell, "ndim", 0) == 1 and len(cell) >= FEWEST:
            return cell  # sound
        if kind in ("m", "M") and cell.dtype.name.endswith("[ns]"):  # of which tolist() would give the number
            cell = cell.astype(f"{kind}8[us]")
        return _plain(cell.tolist(), arrow or _made_by_arrow(cell))
    return _plain(cell.as_py(), True) if hasattr(cell, "as_py") else cell


def _made_by_arrow(cell: Any) -> bool:
    """Tell whether a cell is an array of objects: what pandas makes of Arrow's lists, and people hardly write."""
    return bool(getattr(cell, "ndim", 0)) and getattr(getattr(cell, "dtype", None), "kind", "") == "O"
