from __future__ import annotations

import datasets
import pandas
import pytest

from peft_nb.data import sources
from peft_nb.data.quality.fixes import Change, Edit, Fixed, altered, edits, overlaid, rebuilt, strings

ROWS = [{"a": "one", "n": 1}, {"a": "two", "n": 2}, {"a": "three", "n": 3}]
FIXABLE = Fixed([0, 2], {2: {"a": "THREE"}}, [])
LEFT = [{"a": "one", "n": 1}, {"a": "THREE", "n": 3}]


def test_texts_are_found_and_changed_wherever_they_are() -> None:
    cell = {"x": ["a", ("b", 1, None)], "y": {"z": "c"}}
    assert list(strings(cell)) == ["a", "b", "c"]
    assert altered(cell, str.upper) == {"x": ["A", ("B", 1, None)], "y": {"z": "C"}}
    assert cell == {"x": ["a", ("b", 1, None)], "y": {"z": "c"}}


def test_new_cells_lie_over_rows_of_any_number() -> None:
    rows = overlaid(sources.read(ROWS * 1000).train, {1: {"a": None}, 2999: {"a": "last", "n": 0}})
    assert len(rows) == 3000
    assert rows[1] == {"a": None, "n": 2}
    assert rows[-1] == {"a": "last", "n": 0}
    assert rows[1500:1502] == ROWS[:2]
    assert sum(row == ROWS[1] for row in rows) == 999


def test_a_frame_keeps_its_index_and_types() -> None:
    frame = pandas.DataFrame(ROWS, index=["x", "y", "z"])
    frame["kind"] = pandas.Categorical(["p", "q", "p"])
    fixed = rebuilt(frame, sources.read(frame).train, FIXABLE)
    assert list(fixed.index) == ["x", "z"]
    assert fixed[["a", "n"]].to_dict("records") == LEFT
    assert list(fixed.dtypes) == list(frame.dtypes)
    assert frame["a"].tolist() == ["one", "two", "three"]


def test_a_frame_of_lists_and_categories_can_be_fixed() -> None:
    frame = pandas.DataFrame({"a": pandas.Categorical(["one", "two", "three"]), "turns": [[1], [2], [3]]})
    fixed = rebuilt(frame, sources.read(frame).train, Fixed([2], {2: {"a": "THREE", "turns": [{"role": "user"}]}}, []))
    assert fixed.to_dict("records") == [{"a": "THREE", "turns": [{"role": "user"}]}]


def test_a_data_set_and_its_other_splits_keep_their_features() -> None:
    table = datasets.Dataset.from_list(ROWS)
    splits = datasets.DatasetDict(train=table, test=table)
    fixed = rebuilt(splits, sources.read(splits).train, FIXABLE)
    assert isinstance(fixed, datasets.DatasetDict)
    assert fixed["train"].features == table.features
    assert fixed["train"].to_list() == LEFT
    assert fixed["test"].to_list() == ROWS


def test_other_containers_become_lists_of_rows() -> None:
    columns = {"a": ["one", "two", "three"], "n": [1, 2, 3]}
    assert rebuilt(columns, sources.read(columns).train, FIXABLE) == LEFT
    chats = [[{"role": "user", "content": text}] for text in ("one", "two", "three")]
    fixed = rebuilt(chats, sources.read(chats).train, Fixed([0, 2], {2: {"messages": chats[1]}}, []))
    assert fixed == [{"messages": chats[0]}, {"messages": chats[1]}]


def test_a_list_keeps_the_keys_of_its_rows() -> None:
    rows = [{"a": "one"}, {"a": "two", "n": 2}, {"a": "three", 5: "five"}]
    assert rebuilt(rows, sources.read(rows).train, FIXABLE) == [{"a": "one"}, {"a": "THREE", 5: "five"}]
    assert rows[2]["a"] == "three"


@pytest.mark.parametrize("data", [None, "a file", pandas.Series])
def test_anything_else_becomes_a_list(data: object) -> None:
    assert rebuilt(data, sources.read(ROWS).train, FIXABLE) == LEFT


def test_every_fix_is_shown_before_and_after_and_nothing_secret() -> None:
    words = "one two three four five six seven eight nine ten eleven twelve"
    secret = "Tr0ub4dor&3x9Kd7Qz1mWv"
    rows = [
        {"a": "sound", "turns": []},
        {"a": f"The cafÃ© is open. {words} At the cafÃ© then.", "turns": [{"role": "user", "content": "a\u200bb"}]},
        {"a": "", "turns": [{"role": "user", "content": f"password={secret}"}]},
        {"a": f"so password={secret} it is", "turns": []},
        {"a": f"password=Tr0ub\u200b{secret[5:]}", "turns": []},
    ]
    turns = [{"role": "user", "content": "ab"}]
    patches = {
        1: {"a": f"The café is open. {words} At the café then.", "turns": turns},
        3: {"a": "so password=<PASSWORD> it is"},
        4: {"a": f"password={secret}"},
    }
    fixed = Fixed([0, 1, 3, 4], patches, [Change(number, "") for number in (1, 2, 3, 4)], {2: "empty"})
    shown = list(edits(rows, fixed))
    assert shown == [
        Edit(1, "a", "The cafÃ© is open. one", "The café is open. one"),
        Edit(1, "a", "twelve At the cafÃ© then.", "twelve At the café then."),
        Edit(1, "turns", "a�b", "ab"),
        Edit(2, "", "user password=T…", ""),
        Edit(3, "a", "so password=T… it is", "so password=<PASSWORD> it is"),
        Edit(4, "a", "password=T…", "password=T…"),
    ]
    assert secret[5:] not in str(shown)
