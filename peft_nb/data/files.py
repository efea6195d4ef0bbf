"""Files of rows, read by their suffix: tables, JSON, and plain texts of which each paragraph is a row."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from array import array
from codecs import BOM_UTF8 as BOM
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from peft_nb.data import Rows, decisions
from peft_nb.data.audio import folder as clips
from peft_nb.data.cells import fraction, integer, of_arrow
from peft_nb.data.images import folder
from peft_nb.errors import DataError

DELIMITERS = ",;\t|"
EXCEL = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)  # the first line by which Excel is told the delimiter
BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
HEADER = 100_000  # characters in which the first line is looked for
NAME = 40  # characters; what is longer is hardly the name of a column
NO_NAME = re.compile(r"\n|[.!?…]\s*$|^\s*[-+]?\d+([.,]\d+)?\s*$")  # a sentence or a number
WHOLE = re.compile(r"-?\d+\.0")  # how pandas writes whole numbers where one is missing
CONVERSATIONS = "each row a conversation, column messages"  # the note on rows that are lists of messages

# What reads a file that is not read here; of a file that was compressed, what unpacks it.
ELSEWHERE = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".xlsb", ".ods"), "pandas.read_excel"),
    **{".feather": "pandas.read_feather", ".orc": "pandas.read_orc", ".xml": "pandas.read_xml"},
    **{".dta": "pandas.read_stata", ".sav": "pandas.read_spss", ".arrow": "datasets.Dataset.from_file"},
}
UNPACK = {".gz": "gunzip -k", ".bz2": "bunzip2 -k", ".xz": "unxz -k", ".zst": "unzstd", ".zip": "unzip"}


def is_file_name(name: str) -> bool:
    """Tell whether a name ends like that of a file, read here or not, and is none of a data set on the hub."""
    return Path(name).suffix.lower() in {*READERS, *ELSEWHERE, *UNPACK}


def read(path: Path) -> object:
    """Read a file of rows, a folder or zip of images, a folder of clips, or one of what people labelled.

    Parameters
    ----------
    path : Path
        A file of one of the suffixes in `READERS`, or what :func:`.images.folder.read` or :func:`.audio.folder.read`
        takes, or the folder of :class:`.decisions.Decisions`.

    Returns
    -------
    Rows, list, dict or other
        Rows, by split where a folder has some, or what a JSON file holds.

    Raises
    ------
    DataError
        When there is no such file, it is of another kind, or is malformed: what is wrong, in which line, and how to
        fix it.
    """
    if path.is_dir() and decisions.holds(path):
        path = decisions.rows_of(path)
    suffix = path.suffix.lower()
    if (path.is_dir() or suffix == ".zip") and (images := folder.read(path)):
        return images
    if path.is_dir() and (sound := clips.read(path)):
        return sound
    if path.is_dir():
        raise DataError(f"{path} is a folder; {_inside(path)}")
    if suffix in UNPACK:
        raise DataError(
            f"{path} is compressed; unpack it, such as with !{UNPACK[suffix]} {path}, and name what it held"
        )
    if suffix not in READERS:
        code = f"{ELSEWHERE[suffix]}({str(path)!r})" if suffix in ELSEWHERE else "pandas"
        kinds = ", ".join(one[1:] for one in READERS)
        raise DataError(f"{path} is none of {kinds}; read it with {code} and pass the result")
    try:
        return READERS[suffix](path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def readable(folder: Path) -> list[Path]:
    """The files of a folder that can be read: tables by name, then plain texts, such as a README."""
    found = (file for file in folder.iterdir() if file.suffix.lower() in READERS)
    return sorted(found, key=lambda file: (READERS[file.suffix.lower()] is _read_paragraphs, file))


def _inside(folder: Path) -> str:
    """Say what to pass instead of a folder."""
    if any((folder / name).exists() for name in ("state.json", "dataset_dict.json")):
        return f"pass datasets.load_from_disk({str(folder)!r})"
    found = readable(folder)
    if len([file for file in found if file.suffix == ".parquet"]) > 1:
        return f"pass pandas.read_parquet({str(folder)!r}), or name a file in it, such as {found[0]}"
    return f"name a file in it, such as {found[0]}" if found else "pass a file, or a data set you loaded"


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):  # Excel's "Unicode text", and what PowerShell writes
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is broken UTF-16 at byte {error.start:,}; save it as UTF-8") from None
    return _decoded(content, path).removeprefix("\ufeff")


def _decoded(content: bytes, path: Path, start: int = 0, line: int = 1) -> str:
    """Decode what begins at byte `start`, in line `line`, of a file."""
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise DataError(f"{path} is UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8")
        at, problem = content.find(b"\x00"), "holds a byte that no text has"
    except UnicodeDecodeError as error:
        at, problem = error.start, "is not UTF-8"
    if at >= 0:
        line += content.count(b"\n", 0, at)
        place = f"byte {start + at:,} (line {line}) is 0x{content[at]:02x}"
        raise DataError(f"{path} {problem}: {place}; save it as UTF-8 (Excel: 'CSV UTF-8')")
    return text


def conversation(row: object) -> bool:
    """Tell whether a row is not a dict but a list of messages."""
    return isinstance(row, list | tuple) and bool(row) and all(isinstance(message, Mapping) for message in row)


def _read_csv(path: Path) -> Rows:
    text, above = _read_text(path), 0
    if told := EXCEL.match(text):
        text, above = text[told.end() :], 1
    first = next(filter(None, re.split(r"[\r\n]+", text[:HEADER], maxsplit=2)), "")
    csv.field_size_limit(2**31 - 1)  # the default refuses documents over 131,072 characters
    known = told[1] if told else "\t" if path.suffix.lower() == ".tsv" and "\t" in first else DELIMITERS
    delimiter = max(known, key=lambda one: len(next(csv.reader([first], delimiter=one), [])))
    spaced = 0 < first.count(delimiter) == first.count(f"{delimiter} ")
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=spaced, strict=True)
    header: list[str] = []
    rows: list[list[str]] = []
    line = begun = above
    try:
        for cells in reader:
            if not header:
                header, begun = cells, line + 1
            elif cells and len(cells) != len(header):
                fix = f"put quotes around text that contains {delimiter!r} or line breaks"
                counts = f"{len(cells)} fields where the header has {len(header)}"
                raise DataError(f"{path} line {line + 1}: {counts}; {fix}")
            elif cells == header and len(header) > 1:
                raise DataError(f"{path} line {line + 1}: the header once more; remove that line")
            elif cells:
                rows.append(cells)
            line = above + reader.line_num
    except csv.Error as error:
        fix = 'write a quote inside quoted text as "" and close every quote'
        if delimiter == "\t":
            fix += ", or, if quotes are nothing but text, pass pandas.read_csv(…, sep='\\t', quoting=csv.QUOTE_NONE)"
        raise DataError(f"{path} line {line + 1}: {error}; {fix}") from None
    return _named(path, begun, header, rows)


def _named(path: Path, line: int, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Rows:
    """Give the rows of a csv file the names in its header, which stands in `line`."""
    # Spreadsheets write empty columns beside a table: neither a name nor a cell.
    kept = [at for at, name in enumerate(header) if name.strip() or any(row[at].strip() for row in rows)]
    if len(kept) < len(header):
        header, rows = [header[at] for at in kept], [[row[at] for at in kept] for row in rows]
    if len(nameless := [str(at + 1) for at, name in zip(kept, header, strict=True) if not name.strip()]) > 1:
        raise DataError(f"{path} line {line}: columns {', '.join(nameless)} have no name; name them in the header")
    if len(set(header)) < len(header):
        raise DataError(f"{path} line {line}: two columns have the same name; rename one of them")
    filled = {name: [row[at] for row in rows if row[at]] for at, name in enumerate(header)}
    floats = [repr(name) for name, cells in filled.items() if cells and all(map(WHOLE.fullmatch, cells))]
    fix = "in pandas, .astype('Int64') before to_csv writes whole numbers"
    note = f"numbers of {', '.join(floats)} are written as 30.0, not 30; {fix}" if floats else ""
    return Rows(header, len(rows), lambda a, b: rows[a:b], note=note, doubt=_doubt(path, line, header, rows))


def _doubt(path: Path, line: int, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Say that the header looks like a row, where it does or its column holds one of its cells again."""
    again = (name for at, name in enumerate(header) if any(row[at] == name for row in rows))
    if not (shown := row_shown(header) or next(again, "")):
        return ""
    names = ",".join(["prompt", "completion", *"…" * (len(header) - 2)]) if len(header) > 1 else "text"
    fix = f"add a header line above it, such as {names}; if it is the header, say columns={{role: column}}"
    return f"{path} line {line} looks like a row, not like names of columns ({shown!r}); {fix}"


def row_shown(names: Sequence[str]) -> str:
    """Give the first name of a column that looks like a cell, being long, a sentence or a number; or nothing."""
    if list(names) == [str(number) for number in range(len(names))]:  # pandas writes these where nobody gave names
        return ""
    found = next((name for name in names if len(name) > NAME or NO_NAME.search(name)), "")
    return found if len(found) <= NAME else f"{found[:NAME]}…"


def _read_json(path: Path) -> object:
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one object a line under the name of .json, as many tools write it
            return _read_jsonl(path)
        place = f"{path} line {error.lineno} column {error.colno}"
        raise DataError(f"{place}: {error.msg}; fix it there, or write it with json.dump") from None
    if isinstance(content, dict) and {"columns", "data"} <= set(content):  # pandas' orient="split"
        return [dict(zip(content["columns"], cells, strict=False)) for cells in content["data"]]
    return content["data"] if isinstance(content, dict) and "data" in content else content


def _read_jsonl(path: Path) -> Rows:
    """Look at every line once, and keep only where each begins: the file may be larger than the memory."""
    starts, end = array("q"), 0
    columns: dict[str, None] = {}
    fractions: set[str] = set()
    note = ""
    with path.open("rb") as file:
        state = _state(file)
        for number, line in enumerate(file, start=1):
            mark = len(BOM) if number == 1 and line.startswith(BOM) else 0
            text = _decoded(line[mark:], path, end + mark, number)
            if text.strip():
                try:
                    row = json.loads(text)
                    problem = (
                        "" if isinstance(row, dict) or conversation(row) else f"a {type(row).__name__}, not an object"
                    )
                except json.JSONDecodeError as error:
                    problem = f"{error.msg} at column {error.colno}"
                if problem:
                    whole = ", or name it .json if it is one list" if number == 1 and text.startswith("[") else ""
                    raise DataError(f"{path} line {number}: {problem}; write one JSON object a line{whole}")
                if not isinstance(row, dict):
                    row, note = {"messages": row}, CONVERSATIONS
                starts.append(end + mark)
                columns.update(dict.fromkeys(row))
                fractions.update(column for column, cell in row.items() if fraction(cell))
            end += len(line)
    starts.append(end)

    def fetch(start: int, stop: int) -> Iterator[list[Any]]:
        try:
            with path.open("rb") as file:
                file.seek(starts[start])
                content, same = file.read(starts[stop] - starts[start]), _state(file) == state
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
        if not same:
            raise DataError(f"{path} was changed while it was in use; start again")
        # Not splitlines(): that also splits at U+2028 and its like, which JSON allows inside a string.
        rows = (json.loads(line) for line in content.decode("utf-8").split("\n") if line.strip())
        dicts = (row if isinstance(row, dict) else {"messages": row} for row in rows)
        return ([row.get(column) for column in columns] for row in dicts)

    return Rows(list(columns), len(starts) - 1, fetch, dict.fromkeys(columns.keys() - fractions, integer), note=note)


def _state(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read_parquet(path: Path) -> Rows:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} is not a whole parquet file: {reason}; write it again") from None

    def fetch(start: int, stop: int) -> Iterator[tuple[Any, ...]]:
        return zip(*(column.to_pylist() for column in table[start:stop].columns), strict=True)

    return Rows(table.column_names, len(table), fetch, of_arrow(table))


def _read_paragraphs(path: Path) -> Rows:
    """Read a plain text: what stands between blank lines is a row."""
    text = _read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    tabs = {line.count("\t") for line in lines}
    objects = all(line[0] + line[-1] == "{}" for line in lines)
    if len(lines) > 1 and (objects or (len(tabs) == 1 and tabs != {0})):
        kind, suffix = ("objects of JSON", ".jsonl") if objects else ("a table with tabs", ".tsv")
        raise DataError(f"{path} holds {kind}; rename it to {path.stem}{suffix}")
    rows = [(paragraph.strip("\n"),) for paragraph in BLANK_LINES.split(text) if paragraph.strip()]
    return Rows(
        ["text"], len(rows), lambda a, b: rows[a:b], note="each row a paragraph between blank lines, column text"
    )


READERS: dict[str, Callable[[Path], object]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".parquet": _read_parquet,
    ".txt": _read_paragraphs,
    ".md": _read_paragraphs,
}
