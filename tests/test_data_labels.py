"""Classes found in a table, and its texts as token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest

from peft_nb.data import labels
from peft_nb.data.detection import detect
from peft_nb.data.labels import Classes
from peft_nb.data.rendered import RenderedRows
from peft_nb.data.sources import read
from peft_nb.errors import DataError
from tests.templates import learned, tokenizer


def rows(*given: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {number}", "label": label} for number, label in enumerate(given)]


@pytest.mark.parametrize(
    ("given", "names", "multi"),
    [
        (("b", "a", "b"), ("a", "b"), False),
        ((10, 9, 10), ("9", "10"), False),
        ((["b"], ["a"]), ("a", "b"), True),
        ((["b", "a"], ["a"], []), ("a", "b"), True),
        (('["b", "a"]', '["c"]'), ("a", "b", "c"), True),
    ],
    ids=str,
)
def test_classes_are_found_in_order(given: tuple[Any, ...], names: tuple[str, ...], multi: bool) -> None:
    table = rows(*given)
    assert labels.find(table, detect(table)) == Classes(names, multi)


@pytest.mark.parametrize("given", [[1.0, 0.0, 10.0], [1, None, 0, 10], [[1.0, 0.0], [10.0]]], ids=str)
def test_whole_numbers_that_pandas_made_floats_are_classes_of_whole_numbers(given: list[Any]) -> None:
    table = read(pandas.DataFrame(rows(*given)).dropna()).train
    assert labels.find(table, detect(table)).names == ("0", "1", "10")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("a", "a"), "column 'label' holds only the label 'a'; give rows of at least two classes"),
        (([], []), "column 'label' holds no label at all; give rows of at least two classes"),
        (
            ("a", None, "b", " "),
            r"2 of 4 rows cannot be used \(counting from 0\): row 1: column 'label' is empty; row 3",
        ),
    ],
    ids=str,
)
def test_tables_without_classes_are_refused_in_a_line(given: tuple[Any, ...], told: str) -> None:
    table = rows(*given)
    with pytest.raises(DataError, match=f"^{told}") as refused:
        labels.find(table, detect(table, "text_label"))
    assert "\n" not in str(refused.value)


def test_held_out_labels_unknown_to_training_are_named() -> None:
    table, classes = rows("refund", "invoice", "refnud"), Classes(("invoice", "refund"), False)
    told = r"^1 of 3 evaluation rows .* evaluation row 2: has the label 'refnud', which no training row has; "
    with pytest.raises(
        DataError, match=told + r"did you mean 'refund'\?; correct it, or give training rows of that class$"
    ):
        labels.read(table, detect(table), classes, "evaluation row")


def test_a_second_label_where_training_has_one_each_is_refused() -> None:
    table, classes = rows(["a", "b"], ["a"]), Classes(("a", "b"), False)
    with pytest.raises(DataError, match="row 0: has 2 labels, and every training row has one; give it one label"):
        labels.read(table, detect(table), classes)


class Letters:
    """A tokenizer with a token a letter, between 1 and 2."""

    pad_token_id = 0

    def __call__(self, texts: list[str], truncation: bool, max_length: int | None, **ignored: Any) -> dict[str, Any]:
        kept = [text[: max_length - 2] if truncation and max_length else text for text in texts]
        return {"input_ids": [[1, *map(ord, text), 2] for text in kept]}


def test_texts_keep_their_last_token_when_they_are_cut() -> None:
    table = [{"text": "ab", "label": "x"}, {"text": "abcdef", "label": "y"}]
    classes = Classes(("x", "y"), False)
    rendered = RenderedRows(table, detect(table), Letters())
    cut = labels.encode(*learned(rendered, classes), max_length=5)
    assert [(list(one.ids), one.labels) for one in cut.examples] == [
        ([1, 97, 98, 2], (0,)),
        ([1, 97, 98, 99, 2], (1,)),
    ]
    assert str(cut.report).endswith("2 classes: x, y; 2 rows, 9 tokens, 1 cut at 5")
    dropped = labels.encode(*learned(rendered, classes), max_length=5, too_long="drop")
    assert (dropped.examples.rows.tolist(), dropped.examples.labels) == ([0], [(0,)])
    assert str(dropped.report).endswith("1 row, 4 tokens, 1 dropped as longer than 5")
    with pytest.raises(DataError, match="every row is longer than 3 tokens; raise max_length or truncate"):
        labels.encode(*learned(rendered, classes), max_length=3, too_long="drop")


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    table, told = rows(*"abababa"), []
    monkeypatch.setattr(labels, "BATCH", 3)
    labels.encode(
        *learned(RenderedRows(table, detect(table), Letters()), labels.find(table, detect(table))),
        max_length=8,
        progress=lambda share, what: told.append((round(share, 2), what)),
    )
    assert told == [(0.43, "tokenizing"), (0.86, "tokenizing"), (1.0, "tokenizing")]


def test_labelled_texts_are_kept_for_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, tok = rows(["a", "b"], [], ["b"]), tokenizer()
    layout, classes = detect(table), Classes(("a", "b"), True)

    def cached(classes: Classes = classes, **options: Any) -> Any:
        rendered = RenderedRows(table, layout, tok)
        return labels.cached(tmp_path, "data", *learned(rendered, classes), **{"max_length": 8, **options})

    name, first = cached()
    assert first.examples.labels == [(0, 1), (), (1,)]
    assert first.examples.targets == 3
    others = [cached(max_length=9), cached(Classes(("b", "a"), True)), cached(row_name="evaluation row")]
    assert len({name, *(other for other, _ in others)}) == 4
    monkeypatch.setattr(RenderedRows, "__iter__", None)  # nothing is rendered again
    assert cached()[0] == name
    assert list(cached()[1].examples) == list(first.examples)
    assert cached()[1].report == first.report
