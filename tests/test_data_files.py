"""Files of rows: what is read, and what is refused with place and fix."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from peft_nb.data import BLOCK
from peft_nb.data.detection import detect
from peft_nb.data.files import READERS
from peft_nb.data.sources import read
from peft_nb.errors import DataError
from tests.test_data_sources import CHAT, ROWS, refused, write

FILES = {
    ".csv": "question,answer\nWhere?,Here.\nWhen?,Now.\n",
    ".tsv": "question\tanswer\nWhere?\tHere.\nWhen?\tNow.\n",
    ".json": json.dumps(ROWS, indent=1),
    ".jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    ".ndjson": "".join(json.dumps(row) + "\n" for row in ROWS),
}


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("suffix", FILES)
def test_text_files(tmp_path: Path, suffix: str, bom: bytes) -> None:
    source = read(write(tmp_path / f"tickets{suffix}", bom + FILES[suffix].encode()))
    assert list(source.train) == ROWS
    assert source.name == "tickets"
    assert source.origin.endswith(f"tickets{suffix}, 2 rows")


def test_parquet_files(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    assert list(read(tmp_path / "t.parquet").train) == ROWS
    assert "is not a whole parquet file" in refused(write(tmp_path / "broken.parquet", b"PAR1 oops"))


def test_every_suffix_is_tested() -> None:
    assert set(READERS) == {*FILES, ".parquet", ".txt", ".md"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("wrapped.json", json.dumps({"data": ROWS, "version": 1})),
        ("lines.json", FILES[".jsonl"]),
        ("blank.jsonl", FILES[".jsonl"].replace("\n", "\n\n")),
        ("windows.jsonl", FILES[".jsonl"].replace("\n", "\r\n")),
        ("semicolons.csv", FILES[".csv"].replace(",", ";")),
        ("blank.csv", FILES[".csv"].replace("\n", "\r\n\r\n")),
        ("above.csv", "\n\n" + FILES[".csv"]),
        ("macintosh.csv", FILES[".csv"].replace("\n", "\r")),
        ("tabs.csv", FILES[".tsv"]),
        ("bars.csv", FILES[".csv"].replace(",", "|")),
        ("excel.csv", "sep=;\r\n" + FILES[".csv"].replace(",", ";")),
        ("unicode.csv", FILES[".tsv"].encode("utf-16")),
        ("bigendian.csv", b"\xfe\xff" + FILES[".csv"].encode("utf-16-be")),
        ("spaced.csv", FILES[".csv"].replace(",", ", ").replace("Here.", '"Here."')),
        ("margin.csv", FILES[".csv"].replace("\n", ",,\n")),
        ("columns.json", json.dumps({"question": ["Where?", "When?"], "answer": ["Here.", "Now."]})),
        ("frame.json", pd.DataFrame(ROWS).to_json()),
        ("records.json", pd.DataFrame(ROWS).to_json(orient="records")),
        ("split.json", pd.DataFrame(ROWS).to_json(orient="split")),
        ("table.json", json.dumps({"schema": {}, "data": ROWS})),
        ("named.json", json.dumps({"examples": ROWS})),
    ],
)
def test_what_tools_really_write(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert list(read(write(tmp_path / name, content)).train) == ROWS


def test_splits_in_one_json_file(tmp_path: Path) -> None:
    source = read(write(tmp_path / "t.json", json.dumps({"train": ROWS, "test": ROWS[:1]})))
    assert source.eval is not None
    assert (len(source.train), len(source.eval)) == (2, 1)


def test_words_that_pandas_takes_for_missing_stay_words(tmp_path: Path) -> None:
    rows = list(read(write(tmp_path / "t.csv", "question,answer\nCountry?,NA\nId?,007\n")).train)
    assert [row["answer"] for row in rows] == ["NA", "007"]


def test_quoted_cells_hold_commas_line_breaks_quotes_and_long_documents(tmp_path: Path) -> None:
    long = "x" * 200_000
    path = write(tmp_path / "t.csv", f'a,b\n"1, 2","say ""hi""\nthere"\nlong,{long}\n')
    assert list(read(path).train) == [{"a": "1, 2", "b": 'say "hi"\nthere'}, {"a": "long", "b": long}]


def test_a_line_separator_inside_a_json_string_does_not_end_the_line(tmp_path: Path) -> None:
    row = {"text": "one\u2028two\x85three"}
    path = write(tmp_path / "t.jsonl", json.dumps(row, ensure_ascii=False))
    assert list(read(path).train) == [row]


def test_the_lines_of_a_file_are_found_wherever_they_are_asked_for(tmp_path: Path) -> None:
    rows = [{"n": n, "text": "é" * (n % 7)} for n in range(BLOCK + 9)]
    lines = [("\n \n" if row["n"] % 5 == 0 else "") + json.dumps(row, ensure_ascii=False) for row in rows]
    for mark in (b"", b"\xef\xbb\xbf"):
        for end in ("", "\n", "\n\n"):
            table = read(write(tmp_path / "t.jsonl", mark + ("\n".join(lines) + end).encode())).train
            assert list(table) == rows
            assert [table[at] for at in (0, 5, BLOCK + 8, -1)] == [rows[at] for at in (0, 5, BLOCK + 8, -1)]
            assert table[3:9] == rows[3:9]


def test_a_large_file_of_lines_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with path.open("w") as file:
        for n in range(20_000):
            file.write(f'{{"question": "What is {n}?", "answer": "It is {n}, {"x" * 1000}."}}\n')
    tracemalloc.start()
    source = read(path)
    assert len(source.fingerprint) == 64
    assert sum(len(row["answer"]) for row in source.train) > 20_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000 < path.stat().st_size


def test_a_file_of_lines_that_was_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write(path, "".join(json.dumps(row) + "\n" for row in ROWS))
    table = read(path).train
    write(path, "".join(json.dumps(row | {"more": 1}) + "\n" for row in ROWS))
    with pytest.raises(DataError, match="t.jsonl was changed while it was in use; start again"):
        list(table)
    path.unlink()
    with pytest.raises(DataError, match="t.jsonl cannot be read: No such file"):
        table[0]


@pytest.mark.parametrize(
    ("name", "content", "place", "advice"),
    [
        (
            "a.jsonl",
            '{"a": 1}\n{"a": }\n',
            "a.jsonl line 2: Expecting value at column 7",
            "one JSON object a line",
        ),
        ("b.jsonl", '{"a": 1}\n\n[1]\n', "b.jsonl line 3: a list, not an object", "one JSON object a line"),
        ("c.json", '[{"a": 1},\n {"a": }]', "c.json line 2 column 8: Expecting value", "fix it there"),
        ("d.json", "[1]", "d.json: row 0 (counting from 0) is a int", "write [{'text'"),
        ("e.csv", "a,b\n1,2\n1,2,3\n", "e.csv line 3: 3 fields where the header has 2", "put quotes around"),
        ("f.csv", 'a,b\n"1\n1",2\n1\n', "f.csv line 4: 1 fields where the header has 2", "put quotes around"),
        ("g.csv", 'a,b\n1,2\n"1,2\n3,4\n', "g.csv line 3: unexpected end of data", "close every quote"),
        (
            "g.tsv",
            'a\tb\n"1" 2\t3\n',
            "g.tsv line 2: '\t' expected after",
            "pass pandas.read_csv(…, sep='\\t', quoting=",
        ),
        ("h.csv", "a,a\n1,2\n", "h.csv line 1: two columns have the same name", "rename one"),
        ("i.csv", "", "i.csv has no rows", "nothing to train on"),
        (
            "j.csv",
            b"a,b\n1,2\n\xe9t\xe9,3\n",
            "j.csv is not UTF-8: byte 8 (line 3) is 0xe9",
            "save it as UTF-8",
        ),
        ("k.jsonl", b"\xef\xbb\xbf{}\n\xff", "byte 6 (line 2) is 0xff", "save it as UTF-8"),
        (
            "l.xlsx",
            "",
            "l.xlsx is none of csv, tsv, json, jsonl, ndjson, parquet, txt, md",
            "l.xlsx') and pass the result",
        ),
        ("m.xyz", "", "m.xyz is none of csv", "read it with pandas and pass the result"),
        ("n.csv.gz", "", "n.csv.gz is compressed", "unpack it, such as with !gunzip -k"),
        ("o.jsonl", "[\n{}\n]", "o.jsonl line 1: Expecting value at column 1", "or name it .json if it is one list"),
        ("p.jsonl", '{"a": 1}\n'.encode("utf-16"), "p.jsonl is UTF-16", "save it as UTF-8"),
        (
            "q.csv",
            "a,b\n".encode("utf-16-le"),
            "q.csv holds a byte that no text has: byte 1 (line 1) is 0x00",
            "save it as",
        ),
        ("r.csv", "a,b\nx\0,y\n", "byte 5 (line 2) is 0x00", "save it as UTF-8"),
        ("s.csv", b"\xff\xfea\x00,", "s.csv is broken UTF-16 at byte 4", "save it as UTF-8"),
        ("t.csv", "a,b\n1,2\na,b\n3,4\n", "t.csv line 3: the header once more", "remove that line"),
        ("u.csv", "sep=;\na;b\n\n1;2;3\n", "u.csv line 4: 3 fields where the header has 2", "put quotes around"),
        ("y.csv", "\nsep=;\n", "y.csv has no rows", "nothing to train on"),
        ("z.csv", "sep=;\n\na;a\n1;2\n", "z.csv line 3: two columns have the same name", "rename one"),
        ("v.csv", ",a,,\n0,1,2,\n", "v.csv line 1: columns 1, 3 have no name", "name them in the header"),
        ("w.txt", "a\tb\nc\td\n", "w.txt holds a table with tabs", "rename it to w.tsv"),
        ("x.txt", "{}\n{}\n", "x.txt holds objects of JSON", "rename it to x.jsonl"),
    ],
)
def test_a_malformed_file_is_refused_with_place_and_fix(
    tmp_path: Path, name: str, content: str | bytes, place: str, advice: str
) -> None:
    message = refused(write(tmp_path / name, content))
    assert place in message
    assert advice in message


def test_a_folder_is_refused_with_a_file_in_it(tmp_path: Path) -> None:
    assert "is a folder; pass a file" in refused(str(tmp_path))
    write(tmp_path / "train.csv", "a\n1\n")
    write(tmp_path / "README.md", "a")
    assert f"name a file in it, such as {tmp_path / 'train.csv'}" in refused(str(tmp_path))
    for name in ("part-0.parquet", "part-1.parquet"):
        write(tmp_path / name, "")
    assert f"pass pandas.read_parquet({str(tmp_path)!r}), or name a file in it" in refused(str(tmp_path))
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    assert refused(tmp_path / "saved").endswith(f"pass datasets.load_from_disk({str(tmp_path / 'saved')!r})")


@pytest.mark.parametrize("name", ["notes.txt", "notes.md"])
def test_the_paragraphs_of_a_plain_text_are_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "\n# One\r\nof two lines\r\n \r\n\r\n  Two\n\tlines\n\nThree")
    source = read(path)
    assert list(source.train) == [{"text": "# One\nof two lines"}, {"text": "  Two\n\tlines"}, {"text": "Three"}]
    assert source.origin == f"{path}, 3 rows (each row a paragraph between blank lines, column text)"
    assert detect(source.train).name == "text"
    assert "has no rows" in refused(write(tmp_path / name, " \n\n"))


@pytest.mark.parametrize("name", ["chats.json", "chats.jsonl"])
def test_conversations_without_a_key_are_read_as_messages(tmp_path: Path, name: str) -> None:
    chats = [CHAT, CHAT + CHAT]
    content = json.dumps(chats) if name == "chats.json" else "\n".join(map(json.dumps, chats))
    source = read(write(tmp_path / name, content))
    assert list(source.train) == [{"messages": chat} for chat in chats]
    assert source.origin.endswith(f"{name}, 2 rows (each row a conversation, column messages)")


def test_a_column_without_a_name_keeps_none(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ",question,answer\n0,Where?,Here.\n1,When?,Now.\n")
    train = read(path).train
    assert train.columns == ("", "question", "answer")
    assert train[1] == {"": "1", **ROWS[1]}
    assert read(write(tmp_path / "t.tsv", "\tquestion\n0\tWhere?\n")).train.columns == ("", "question")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("Where is Rome?,In Italy\nWhere is Bonn?,In Germany\n", "'Where is Rome?' prompt,completion"),
        ("good film,positive\nbad film,negative\nnice,positive\n", "'positive' prompt,completion"),
        ("1,Rome,Italy\n2,Bonn,Germany\n", "'1' prompt,completion,…"),
        ("A day in the life of a cat that sleeps long\nA day\n", "'A day in the life of a cat that sleeps l…' text"),
    ],
)
def test_a_row_in_the_place_of_the_header_is_told(tmp_path: Path, content: str, told: str) -> None:
    path = write(tmp_path / "t.csv", content)
    with pytest.raises(DataError) as caught:
        detect(read(path).train)
    shown, _, names = told.rpartition(" ")
    assert str(caught.value) == (
        f"{path} line 1 looks like a row, not like names of columns ({shown}); add a header line above it, such as "
        f"{names}; if it is the header, say columns={{role: column}}"
    )


def test_a_header_that_says_nothing_is_still_a_header(tmp_path: Path) -> None:
    for header in ("ask,reply to it", "0,1"):
        with pytest.raises(DataError, match="fit no known layout; say which column is which"):
            detect(read(write(tmp_path / "t.csv", f"{header}\nWhere?,Here.\n")).train)
    path = write(tmp_path / "form.csv", "What do you want to know?,What is the answer?\nWhere?,Here.\n")
    columns = {"prompt": "What do you want to know?", "completion": "What is the answer?"}
    assert detect(read(path).train, columns=columns).columns == columns


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    assert "missing.csv cannot be read: No such file" in refused(tmp_path / "missing.csv")
