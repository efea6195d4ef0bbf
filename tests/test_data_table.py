"""The rows of a run: read once, rendered once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from peft_nb.data import table
from peft_nb.errors import DataError
from peft_nb.spec import RunSpec
from tests.templates import tokenizer

ROWS = [{"question": f"Where is {city}?", "answer": "In Spain."} for city in ("Madrid", "Toledo", "Vigo")]


def test_the_layout_and_the_origin_are_found(spec: Callable[..., RunSpec]) -> None:
    found = table.read(spec(), data=ROWS)
    assert found.layout.name == "question_answer"
    assert found.eval_rows is None
    assert (list(found.held_out[0]), found.held_out[1]) == (ROWS, found.layout)
    assert found.fingerprint == found.eval_fingerprint


def test_names_are_looked_up_among_the_variables_first(spec: Callable[..., RunSpec]) -> None:
    found = table.read(spec(data="rows"), namespace={"rows": ROWS})
    assert list(found.rows) == ROWS


def test_rows_for_evaluation_may_have_a_layout_of_their_own(spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    apart = tmp_path / "apart.jsonl"
    apart.write_text(json.dumps({"instruction": "Say yes.", "output": "yes"}) + "\n", encoding="utf-8")
    found = table.read(spec(eval_data=str(apart)), data=ROWS)
    assert found.eval_layout.name != found.layout.name
    assert [dict(row) for row in found.held_out[0]] == [{"instruction": "Say yes.", "output": "yes"}]
    assert found.fingerprint != found.eval_fingerprint


def test_rows_that_nothing_is_known_of_are_refused(spec: Callable[..., RunSpec]) -> None:
    with pytest.raises(DataError, match="colour"):
        table.read(spec(), data=[{"colour": 3}])


@pytest.mark.parametrize("apart", [False, True])
def test_rows_are_rendered_once(spec: Callable[..., RunSpec], apart: bool) -> None:
    wanted = spec(eval_data="others") if apart else spec()
    found = table.read(wanted, data=ROWS, namespace={"others": ROWS[:1]})
    tok = tokenizer()
    assert found.rendered(tok, wanted) is found.rendered(tok, wanted)
    assert found.rendered_eval(tok, wanted) is found.rendered_eval(tok, wanted)
    assert (found.rendered_eval(tok, wanted) is found.rendered(tok, wanted)) is not apart
