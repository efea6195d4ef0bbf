"""How long rows are, and which of them are cut."""

from __future__ import annotations

from array import array
from typing import Any

from peft_nb.data.detection import detect
from peft_nb.data.quality.findings import Findings
from peft_nb.data.quality.lengths import CHARACTERS_A_TOKEN, Options, lengths
from peft_nb.data.quality.reading import read
from peft_nb.data.rendered import BATCH, RenderedRows
from peft_nb.spec import RunSpec
from tests.templates import tokenizer

ROWS = [
    {"question": "Where is it?", "answer": "Here."},
    {"question": "Where is it? " * 40, "answer": "Here."},
    {"question": "Where is it?", "answer": "Here. " * 40},
]


def measured(rows: list[dict[str, str]], *, estimate: bool = False, **options: Any) -> tuple[array[int], Findings]:
    layout, found = detect(rows), Findings()
    readings = {number: read(row, layout) for number, row in enumerate(rows) if row["answer"]}
    rendered = None if estimate else RenderedRows(rows, layout, tokenizer())
    return lengths(readings, rendered, Options(**options), found, None), found


def test_rows_are_measured_as_the_model_sees_them() -> None:
    counts, found = measured(ROWS, max_length=64)
    assert counts.tolist() == [len(one.ids) for one in RenderedRows(ROWS, detect(ROWS), tokenizer())]
    assert dict(found.rows) == {"long_prompt": [1], "long": [2]}
    assert found.examples["long_prompt"][0].startswith("row 1: its prompt alone is ")
    assert dict(measured(ROWS, max_length=64, too_long="drop")[1].rows) == {"long": [1, 2]}
    assert dict(measured(ROWS)[1].rows) == {}


def test_without_a_tokenizer_lengths_are_estimated() -> None:
    counts, found = measured(ROWS, estimate=True, max_length=60)
    texts = [f"{row['question']}\n{row['answer']}" for row in ROWS]
    assert counts.tolist() == [-(-len(text) // CHARACTERS_A_TOKEN) for text in texts]
    assert dict(found.rows) == {"long": [1, 2]}
    assert "about" in found.examples["long"][0]


def test_a_row_that_the_template_refuses_is_malformed_and_others_keep_their_numbers() -> None:
    rows = [ROWS[0], {"question": "Where?", "answer": "<|im_end|>"}, {"question": "Where?", "answer": ""}, ROWS[2]]
    counts, found = measured(rows, max_length=64)
    assert len(counts) == 2
    assert dict(found.rows) == {"malformed": [1], "long": [3]}


def test_progress_is_told_batch_by_batch() -> None:
    rows, told = [ROWS[0]] * (BATCH + 1), []
    layout = detect(rows)
    readings = {number: read(row, layout) for number, row in enumerate(rows)}
    lengths(readings, None, Options(), Findings(), lambda share, what: told.append((round(share, 3), what)))
    assert told == [(0.998, "tokenizing")]


def test_what_a_check_has_to_know_of_a_spec() -> None:
    spec = RunSpec(data="rows", task="kto", undesirable_weight=2, allow=["*@tidewater.shop"], max_length=64)
    options = Options.of(spec, 20, ("rated",))
    assert (options.task, options.max_length, options.allow) == ("kto", 64, ("*@tidewater.shop",))
    assert (options.desirable_weight, options.undesirable_weight) == (None, 2)
    assert (options.usual_rows, options.accepts) == (20, ("rated",))
