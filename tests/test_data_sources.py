from __future__ import annotations

import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from peft_nb.data import BLOCK
from peft_nb.data.sources import BUILTIN, READERS, Source, data_variables, read
from peft_nb.errors import DataError

ROWS = [{"question": "Where?", "answer": "Here."}, {"question": "When?", "answer": "Now."}]


def refused(data: object, namespace: dict | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read(data, namespace)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


# ---- variables ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        tuple(ROWS),
        pd.DataFrame(ROWS),
        Dataset.from_list(ROWS),
        DatasetDict(train=Dataset.from_list(ROWS)),
    ],
)
def test_every_container_gives_the_same_rows_and_fingerprint(data: object) -> None:
    source = read(data)
    assert list(source.train) == [source.train[0], source.train[1]] == source.train[:] == ROWS
    assert source.train[-1] == ROWS[-1]
    assert source.train.columns == ("question", "answer")
    assert source.eval is None
    assert source.fingerprint == read(ROWS).fingerprint


def test_a_variable_is_found_by_name_and_reported() -> None:
    source = read("tickets", {"tickets": pd.DataFrame(ROWS)})
    assert (source.name, source.origin) == ("tickets", "DataFrame `tickets`, 2 rows")
    assert read(pd.DataFrame(ROWS[:1])).origin == "DataFrame, 1 row"


def test_a_variable_comes_before_a_built_in_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "support-desk", "")
    write(tmp_path / "rows.csv", "text\nfile\n")
    assert read("support-desk").origin.startswith("built-in support-desk")
    assert read("rows.csv").train[0] == {"text": "file"}
    assert read("rows.csv", {"rows.csv": [{"text": "variable"}]}).train[0] == {"text": "variable"}


def test_a_variable_may_hold_the_path(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "text\nhello\n")
    assert read("where", {"where": path}).train[0] == read("where", {"where": Path(path)}).train[0] == {"text": "hello"}


def test_missing_cells_are_none() -> None:
    frame = pd.DataFrame(
        {
            "text": ["a", None, float("nan")],
            "day": pd.to_datetime(["2024-01-01", None, None]),
            "count": pd.array([1, None, 3], dtype="Int64"),
        }
    )
    rows = list(read(frame).train)
    assert [row["text"] for row in rows] == ["a", None, None]
    assert [row["day"] is None for row in rows] == [False, True, True]
    assert [row["count"] for row in rows] == [1, None, 3]
    assert type(rows[0]["count"]) is int
    assert list(read([{"text": float("nan")}]).train) == [{"text": None}]


def test_messages_read_by_pandas_from_parquet_are_lists_again(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    path = tmp_path / "chat.parquet"
    pq.write_table(pa.Table.from_pylist([{"messages": messages}]), path)
    assert read(pd.read_parquet(path)).train[0] == read(path).train[0] == {"messages": messages}


def test_rows_of_a_list_may_lack_keys() -> None:
    assert list(read([{"a": 1}, {"b": 2}]).train) == [{"a": 1, "b": None}, {"a": None, "b": 2}]


def test_reading_a_large_frame_turns_no_row_into_a_dict() -> None:
    frame = pd.DataFrame({"text": range(1_000_000)})
    start = time.perf_counter()
    assert read(frame).train[999_999] == {"text": 999_999}
    assert time.perf_counter() - start < 0.2


def test_what_the_notebook_does_to_a_frame_later_does_not_reach_its_rows() -> None:
    frame = pd.DataFrame(ROWS)
    source = read(frame)
    frame["answer"] = "changed"
    frame.columns = ["a", "b"]
    assert list(source.train) == ROWS


def test_the_fingerprint_follows_the_content() -> None:
    known = "6712bae2992d1dbbec1192573469578725c1c8e5405c4aa95645f57dc5f335a0"
    assert read(ROWS).fingerprint == known  # on every machine and in every version
    assert read([dict(reversed(row.items())) for row in ROWS]).fingerprint == known
    others = [ROWS[::-1], ROWS[:1], [{**ROWS[0], "answer": "There."}, ROWS[1]]]
    splits = [{"train": ROWS, "test": ROWS[:1]}, {"train": ROWS[:1], "test": ROWS}]
    assert len({read(data).fingerprint for data in [ROWS, *others, *splits]}) == 6


@pytest.mark.parametrize("format", ["numpy", "pandas", "arrow"])
def test_a_data_set_in_another_format_gives_plain_values(format: str) -> None:
    row = read(Dataset.from_list([{"text": "a", "n": 1}]).with_format(format)).train[0]
    assert row == {"text": "a", "n": 1}
    assert type(row["n"]) is int


def test_classes_of_a_data_set_have_their_names() -> None:
    kinds = ClassLabel(names=["bird", "fruit"])
    features = Features({"text": Value("string"), "label": kinds, "also": [kinds]})
    rows = [{"text": "fig", "label": 1, "also": [0, 1]}, {"text": "?", "label": -1, "also": []}]
    train = read(Dataset.from_list(rows, features=features)).train
    assert list(train) == [
        {"text": "fig", "label": "fruit", "also": ["bird", "fruit"]},
        {"text": "?", "label": None, "also": []},
    ]


# ---- splits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev", "eval", "test"])
def test_held_out_splits_are_recognised(name: str) -> None:
    source = read(DatasetDict({"train": Dataset.from_list(ROWS), name: Dataset.from_list(ROWS[:1])}))
    assert source.eval is not None
    assert list(source.eval) == ROWS[:1]
    assert source.origin == f"DatasetDict, 2 rows and 1 held-out (split {name!r})"


def test_validation_comes_before_test() -> None:
    source = read({"train": ROWS, "test": ROWS, "validation": ROWS[:1]})
    assert source.eval is not None
    assert len(source.eval) == 1


def test_without_a_training_split_the_user_is_asked_for_one() -> None:
    message = refused("parts", {"parts": DatasetDict(test=Dataset.from_list(ROWS))})
    assert "`parts` is a DatasetDict of 'test' without a split 'train'" in message
    assert "pandas.DataFrame" in refused({"question": ["a"], "answer": ["b"]})


# ---- built-ins and the hub ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "held_out"), [(n, 360, 60) if n == "support-desk" else (n, 60, 0) for n in BUILTIN]
)
def test_a_built_in_has_rows_and_perhaps_held_out_rows(name: str, rows: int, held_out: int) -> None:
    source = read(name, {})
    assert source.name == name
    assert (len(source.train), len(source.eval or ())) == (rows, held_out)


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand in for a hub that accepts connections and never answers."""
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield


@pytest.mark.usefixtures("silent_hub")
def test_a_hub_that_does_not_answer_costs_three_seconds_and_one_line() -> None:
    start = time.perf_counter()
    message = refused("someone/something")
    assert 2.5 < time.perf_counter() - start < 5
    assert message.startswith("no data named 'someone/something': looked for a variable, a built-in")
    assert "the hub cannot be asked" in message
    assert "HF_HUB_OFFLINE=1" in message


class NothingHere(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


def test_a_hub_that_answers_no_is_one_more_place_looked_in(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with HTTPServer(("127.0.0.1", 0), NothingHere) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert refused("someone/something").endswith(f"a built-in ({', '.join(BUILTIN)}), a file, the hub")


@pytest.mark.usefixtures("silent_hub")
@pytest.mark.parametrize("name", ["tickets", "data/tickets.csv", "./a/b", "a/b/c", "https://x.org/a"])
def test_only_owner_and_name_are_looked_up_on_the_hub(name: str) -> None:
    start = time.perf_counter()
    assert "hub cannot be asked" not in refused(name)
    assert time.perf_counter() - start < 1


# ---- what is not data --------------------------------------------------------------------------


def test_an_unknown_name_says_where_it_was_looked_for_and_what_is_near(tmp_path: Path) -> None:
    message = refused("tickts", {"tickets": ROWS, "other": 3})
    assert message.startswith(
        f"no data named 'tickts': looked for a variable, a built-in ({', '.join(BUILTIN)}), a file"
    )
    assert "did you mean 'tickets'?" in message
    assert "did you mean 'support-desk'?" in refused("suport-desk")
    write(tmp_path / "tickets.csv", "a\n1\n")
    assert "tickets.csv'?" in refused(str(tmp_path / "ticket.csv"))


@pytest.mark.parametrize(
    ("value", "kind"), [(3, "int"), (None, "NoneType"), ({1, 2}, "set"), (pd.Series(["a"]), "Series")]
)
def test_a_variable_of_the_wrong_type_says_what_it_is_and_what_is_accepted(value: object, kind: str) -> None:
    message = refused("x", {"x": value})
    assert message.startswith("`x` is a ")
    assert kind in message
    assert "accepted are a DataFrame, a list of dicts" in message


def test_a_table_of_another_library_is_asked_to_become_a_frame() -> None:
    assert "pass its .to_pandas()" in refused(pa.Table.from_pylist(ROWS))


def test_a_list_of_strings_is_shown_how_to_become_rows() -> None:
    message = refused("lines", {"lines": ["a", "b"]})
    assert "row 0 (counting from 0) is a str" in message
    assert "[{'text': text} for text in …]" in message


@pytest.mark.parametrize("data", [[], pd.DataFrame({"text": []}), {"train": [], "test": ROWS}])
def test_data_without_rows_are_refused(data: object) -> None:
    assert "has no rows" in refused(data)


def test_two_columns_of_one_name_are_refused() -> None:
    assert "two columns named 'a'" in refused(pd.DataFrame([[1, 2]], columns=["a", "a"]))


# ---- files -------------------------------------------------------------------------------------

FILES = {
    ".csv": "question,answer\nWhere?,Here.\nWhen?,Now.\n",
    ".tsv": "question\tanswer\nWhere?\tHere.\nWhen?\tNow.\n",
    ".json": json.dumps(ROWS, indent=1),
    ".jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
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
    assert set(READERS) == {*FILES, ".parquet"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("wrapped.json", json.dumps({"data": ROWS, "version": 1})),
        ("lines.json", FILES[".jsonl"]),
        ("blank.jsonl", FILES[".jsonl"].replace("\n", "\n\n")),
        ("windows.jsonl", FILES[".jsonl"].replace("\n", "\r\n")),
        ("semicolons.csv", FILES[".csv"].replace(",", ";")),
        ("blank.csv", FILES[".csv"].replace("\n", "\r\n\r\n")),
    ],
)
def test_what_tools_really_write(tmp_path: Path, name: str, content: str) -> None:
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
    ("name", "content", "place", "mend"),
    [
        (
            "a.jsonl",
            '{"a": 1}\n{"a": }\n',
            "a.jsonl line 2: Expecting value at column 7",
            "one JSON object a line",
        ),
        ("b.jsonl", '{"a": 1}\n\n[1]\n', "b.jsonl line 3: a list, not an object", "one JSON object a line"),
        ("c.json", '[{"a": 1},\n {"a": }]', "c.json line 2 column 8: Expecting value", "mend it there"),
        ("d.json", "[1]", "d.json: row 0 (counting from 0) is a int", "write [{'text'"),
        ("e.csv", "a,b\n1,2\n1,2,3\n", "e.csv line 3: 3 fields where the header has 2", "put quotes around"),
        ("f.csv", 'a,b\n"1\n1",2\n1\n', "f.csv line 4: 1 fields where the header has 2", "put quotes around"),
        ("g.csv", 'a,b\n1,2\n"1,2\n3,4\n', "g.csv line 3: unexpected end of data", "close every quote"),
        ("h.csv", "a,a\n1,2\n", "h.csv line 1: two columns have the same name", "rename one"),
        ("i.csv", "", "i.csv has no rows", "nothing to train on"),
        (
            "j.csv",
            b"a,b\n1,2\n\xe9t\xe9,3\n",
            "j.csv is not UTF-8: byte 8 (line 3) is 0xe9",
            "save it as UTF-8",
        ),
        ("k.jsonl", b"\xef\xbb\xbf{}\n\xff", "byte 6 (line 2) is 0xff", "save it as UTF-8"),
        ("l.xlsx", "", "l.xlsx is none of csv, tsv, json, jsonl, parquet", "read it with pandas"),
    ],
)
def test_a_malformed_file_is_refused_with_place_and_mend(
    tmp_path: Path, name: str, content: str | bytes, place: str, mend: str
) -> None:
    message = refused(write(tmp_path / name, content))
    assert place in message
    assert mend in message


def test_a_folder_is_refused_with_a_file_in_it(tmp_path: Path) -> None:
    assert "is a folder; pass a file" in refused(str(tmp_path))
    write(tmp_path / "train.csv", "a\n1\n")
    assert f"name a file in it, such as {tmp_path / 'train.csv'}" in refused(str(tmp_path))


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    assert "missing.csv cannot be read: No such file" in refused(tmp_path / "missing.csv")


# ---- completion --------------------------------------------------------------------------------


def test_data_variables_are_those_that_read_accepts() -> None:
    data = {"frame": pd.DataFrame(ROWS), "rows": ROWS, "hf": Dataset.from_list(ROWS), "parts": DatasetDict()}
    other = {"_rows": ROWS, "In": ["x"], "Out": {1: 2}, "n": 3, "empty": [], "names": ["a"], "pd": pd}
    assert data_variables({**data, **other}) == sorted(data)


def test_a_source_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Source("a", read(ROWS).train, None, "list").name = "b"  # type: ignore[misc]
