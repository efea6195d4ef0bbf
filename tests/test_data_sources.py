from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from peft_nb.data.detection import detect
from peft_nb.data.sources import BUILTIN, Source, data_variables, read
from peft_nb.errors import DataError

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
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
    assert source.origin == f"DatasetDict, 2 rows and 1 for evaluation (split {name!r})"


def test_validation_comes_before_test() -> None:
    source = read({"train": ROWS, "test": ROWS, "validation": ROWS[:1]})
    assert source.eval is not None
    assert len(source.eval) == 1


def test_without_a_training_split_the_user_is_asked_for_one() -> None:
    message = refused("parts", {"parts": DatasetDict(test=Dataset.from_list(ROWS))})
    assert "`parts` is a DatasetDict of 'test' without a split 'train'" in message
    assert message.endswith("pass the part to train on, or a list of it if it is one row")
    named = {"first": {"question": "a"}, "second": {"question": "b"}}
    assert refused("x", {"x": named}).endswith("or list(x.values()) if each is a row")


def test_what_is_no_split_is_no_table_of_its_own() -> None:
    for alone in ({"test": ROWS}, {"messages": CHAT}, {"messages": CHAT, "tools": [{"name": "f"}] * 2}, ROWS[0]):
        assert "or a list of it if it is one row" in refused(alone)


COLUMNS = {"question": ["Where?", "When?"], "answer": ["Here.", "Now."]}


@pytest.mark.parametrize(
    "data",
    [
        COLUMNS,
        {name: tuple(cells) for name, cells in COLUMNS.items()},
        {name: np.array(cells) for name, cells in COLUMNS.items()},
        dict(pd.DataFrame(ROWS).items()),
        pd.DataFrame(ROWS).to_dict(),
        {"examples": ROWS},
    ],
)
def test_a_dict_of_columns_is_a_table(data: dict) -> None:
    source = read("x", {"x": data})
    assert (list(source.train), source.eval, source.origin) == (ROWS, None, "dict `x`, 2 rows")
    parts = read({"train": data, "test": data})
    assert parts.eval is not None
    assert list(parts.train) == list(parts.eval) == ROWS


def test_columns_of_dicts_and_of_conversations_stay_columns() -> None:
    data = {"messages": [CHAT, CHAT], "tools": [{"name": "f"}, {"name": "g"}]}
    assert list(read(data).train) == [{"messages": CHAT, "tools": {"name": name}} for name in "fg"]


def test_columns_of_different_lengths_are_refused_with_their_lengths() -> None:
    message = refused("x", {"x": {**COLUMNS, "more": ["a"]}})
    assert message == (
        "`x` is a dict of columns of different lengths: 'question' has 2, 'answer' has 2, 'more' has 1; "
        "give each as many"
    )


def test_a_list_of_conversations_is_read_as_a_column_of_messages() -> None:
    source = read("chats", {"chats": [CHAT, CHAT[:1] * 2]})
    assert list(source.train) == [{"messages": CHAT}, {"messages": CHAT[:1] * 2}]
    assert source.origin == "list `chats`, 2 rows (each row a conversation, column messages)"
    assert detect(source.train).name == "messages"
    assert data_variables({"chats": [CHAT], "words": [["a"]]}) == ["chats"]


# ---- what the columns of libraries hold ----------------------------------------------------------

CALLS = [
    {
        "messages": [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": None, "tool_calls": [{"name": name, "arguments": arguments}]},
            {"role": "tool", "content": "no"},
        ],
        "more": {"texts": ["a", None]},
    }
    for name, arguments in (("rain", {"days": 2, "places": ["Bonn"]}), ("wind", {"unit": {"name": "km"}}))
]


def test_keys_that_arrow_adds_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(CALLS), path)
    frames = [
        pd.read_parquet(path, **how) for how in ({}, *({"dtype_backend": f} for f in ("pyarrow", "numpy_nullable")))
    ]
    for data in (path, *frames, frames[0].convert_dtypes(), Dataset.from_list(CALLS)):
        train = read(data).train
        assert [row["messages"] for row in train] == [row["messages"] for row in CALLS]
        assert json.dumps(train[0]["messages"][1]["tool_calls"][0]["arguments"]) == '{"days": 2, "places": ["Bonn"]}'
        assert train[0]["more"] == CALLS[0]["more"]


def test_a_null_that_was_written_stays(tmp_path: Path) -> None:
    rows = [{"arguments": {"days": 2, "unit": None}}, {"arguments": {"days": None}}]
    lines = write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    for data in (rows, lines, write(tmp_path / "t.json", json.dumps(rows)), pd.DataFrame(rows)):
        assert list(read(data).train) == rows


def test_maps_of_arrow_are_dicts(tmp_path: Path) -> None:
    maps = pa.array([[list(CHAT[0].items())]], pa.list_(pa.map_(pa.string(), pa.string())))
    pq.write_table(pa.table({"messages": maps}), tmp_path / "t.parquet")
    for data in (tmp_path / "t.parquet", pd.read_parquet(tmp_path / "t.parquet")):
        assert read(data).train[0] == {"messages": CHAT[:1]}


def containers(frame: pd.DataFrame, folder: Path) -> list[object]:
    frame.to_parquet(folder / "t.parquet")
    return [frame, frame.to_dict("records"), folder / "t.parquet", Dataset.from_pandas(frame)]


@pytest.mark.parametrize(
    ("cells", "answers"),
    [
        ([30, None, 2], [30, None, 2]),
        ([30.0, -1.0], [30, -1]),  # a row with nothing was dropped before
        ([30, 3.5, None], [30.0, 3.5, None]),
        ([1e18, None], [1e18, None]),  # too large for a float to tell one from the next
        ([float("inf"), 1.0], [float("inf"), 1.0]),
        ([None, float("nan")], [None, None]),
    ],
    ids=str,
)
def test_whole_numbers_that_pandas_made_floats_are_whole_again(tmp_path: Path, cells: list, answers: list) -> None:
    frame = pd.DataFrame({"question": "How many?", "answer": pd.Series(cells, dtype=float)})
    files = [tmp_path / "t.json", tmp_path / "t.jsonl"]
    if float("inf") not in cells:  # JSON cannot hold it
        frame.to_json(files[0], orient="records", double_precision=1)
        frame.to_json(files[1], orient="records", lines=True, double_precision=1)
    for data in (*containers(frame, tmp_path), *(file for file in files if file.exists())):
        found = [row["answer"] for row in read(data).train]
        assert list(map(repr, found)) == list(map(repr, answers))


def test_whole_numbers_beside_other_things_are_whole_too() -> None:
    frame = pd.DataFrame({"answer": [30.0, "many", None, True]})
    assert list(map(repr, (row["answer"] for row in read(frame).train))) == ["30", "'many'", "None", "True"]
    frame = pd.DataFrame({"answer": [30.0, "many", 0.5]})
    assert list(map(repr, (row["answer"] for row in read(frame).train))) == ["30.0", "'many'", "0.5"]
    extension = pd.DataFrame({"answer": pd.array([30, None], dtype="Float64")})
    assert list(map(repr, (row["answer"] for row in read(extension).train))) == ["30", "None"]


def test_the_text_of_a_file_stays_text(tmp_path: Path) -> None:
    source = read(write(tmp_path / "t.csv", "question,answer\nHow many?,30.0\nAnd now?,\n"))
    assert [row["answer"] for row in source.train] == ["30.0", ""]
    note = "numbers of 'answer' are written as 30.0, not 30; in pandas, .astype('Int64') before to_csv writes"
    assert source.origin.endswith(f"t.csv, 2 rows ({note} whole numbers)")
    assert read(write(tmp_path / "t.csv", "question,answer\nHow many?,30.0\nAnd now?,3.5\n")).train.note == ""


def test_days_are_written_without_a_time(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"day": pd.to_datetime(["2024-01-31", None]), "time": pd.to_datetime(["2024-01-31 00:00", "2024-02-01 08:30"])}
    )
    wanted = [
        {"day": "2024-01-31", "time": "2024-01-31 00:00:00"},
        {"day": None, "time": "2024-02-01 08:30:00"},
    ]
    frame.to_parquet(tmp_path / "t.parquet")
    arrow = pd.read_parquet(tmp_path / "t.parquet", dtype_backend="pyarrow")
    dates = arrow.assign(day=arrow["day"].dt.date)
    for data in (frame, arrow, dates, tmp_path / "t.parquet", Dataset.from_pandas(frame)):
        assert list(read(data).train) == wanted


def test_a_column_that_pandas_keeps_as_the_index_is_named() -> None:
    frame = pd.DataFrame([{"context": "A map.", **row} for row in ROWS])
    source = read("frame", {"frame": frame.set_index("context")})
    assert source.origin == "DataFrame `frame`, 2 rows (without its index 'context': .reset_index() makes it a column)"
    with pytest.raises(DataError, match="^`frame` has 'question' as its index.*; pass frame.reset_index\\(\\)$"):
        detect(read("frame", {"frame": frame[["question", "answer"]].set_index("question")}).train)
    assert read(frame[::-1]).origin == "DataFrame, 2 rows"


def test_names_of_columns_that_look_like_a_row_are_told() -> None:
    frame = pd.DataFrame([["Where is Bonn?", "In Germany."]], columns=["Where is Rome?", "In Italy."])
    with pytest.raises(DataError) as caught:
        detect(read("frame", {"frame": frame}).train)
    assert str(caught.value) == (
        "`frame` has names of columns that look like a row ('Where is Rome?'); read its file with pandas.read_csv(…, "
        "header=None, names=['prompt', 'completion']), or say columns={role: column}"
    )
    unnamed = pd.DataFrame([["Where is Bonn?", "In Germany."]])
    with pytest.raises(DataError, match="columns '0', '1' fit no known layout; say which column is which"):
        detect(read(unnamed).train)
    named = {"prompt": "Where is Rome?", "completion": "In Italy."}  # such as the questions of a form
    assert detect(read(frame).train, columns=named).name == "prompt_completion"


# ---- built-ins and the hub ---------------------------------------------------------------------


COUNTS = {
    "support-desk": (360, 60),
    "brief-answers": (332, 60),
    "brief-answers-rated": (120, 0),
    "digits": (1497, 300),
    "spoken-names": (120, 30),
}


@pytest.mark.parametrize(("name", "rows", "held_out"), [(n, *COUNTS.get(n, (60, 0))) for n in BUILTIN])
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
@pytest.mark.parametrize(
    "name", ["tickets", "data/tickets.csv", "data/tickets.xlsx", "data/t.csv.gz", "./a/b", "a/b/c", "https://x.org/a"]
)
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
    assert "pass its .to_frame('text')" in refused(pd.Series(["a"]))
    assert "pass list(…) of it" in refused(iter(ROWS))


def test_a_list_of_strings_is_shown_how_to_become_rows() -> None:
    message = refused("lines", {"lines": ["a", "b"]})
    assert "row 0 (counting from 0) is a str" in message
    assert message.endswith("write [{'text': text} for text in lines] for plain texts")
    message = refused("pairs", {"pairs": [("a", "b")]})
    assert message.endswith("[{'prompt': prompt, 'completion': answer} for prompt, answer in pairs] for pairs of texts")


@pytest.mark.parametrize("data", [[], pd.DataFrame({"text": []}), {"train": [], "test": ROWS}])
def test_data_without_rows_are_refused(data: object) -> None:
    assert "has no rows" in refused(data)


def test_two_columns_of_one_name_are_refused() -> None:
    assert "two columns named 'a'" in refused(pd.DataFrame([[1, 2]], columns=["a", "a"]))


# ---- completion --------------------------------------------------------------------------------


def test_data_variables_are_those_that_read_accepts() -> None:
    data = {"frame": pd.DataFrame(ROWS), "rows": ROWS, "hf": Dataset.from_list(ROWS), "parts": DatasetDict()}
    other = {"_rows": ROWS, "In": ["x"], "Out": {1: 2}, "n": 3, "empty": [], "names": ["a"], "pd": pd}
    assert data_variables({**data, **other}) == sorted(data)


def test_a_source_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Source("a", read(ROWS).train, None, "list").name = "b"  # type: ignore[misc]
