"""The rows of a run, found and recognised once, for training and for evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peft_nb.data import sources
from peft_nb.data.table import read
from peft_nb.errors import DataError
from peft_nb.spec import RunSpec
from tests.templates import tokenizer

CHATS = [{"question": f"Where is parcel {n}?", "answer": f"In street {n}."} for n in range(4)]
OTHERS = [{"prompt": "Who?", "completion": f"Number {n}."} for n in range(3)]


def test_rows_and_evaluation_rows_each_have_their_layout(rows_file: Path) -> None:
    found = read(RunSpec(data="learned", eval_data=str(rows_file)), namespace={"learned": OTHERS})
    assert (list(found.rows), found.layout.name) == (OTHERS, "prompt_completion")
    assert (len(found.held_out[0]), found.held_out[1].name) == (23, "question_answer")
    assert found.origin == "list `learned`, 3 rows"
    assert found.fingerprint == sources.read(OTHERS).fingerprint
    assert found.eval_fingerprint == sources.read(rows_file).fingerprint != found.fingerprint


def test_answers_held_out_are_rated_as_those_that_are_learned_even_where_all_are_good() -> None:
    rated = [{**one, "label": number % 2} for number, one in enumerate(CHATS)]
    found = read(RunSpec(data="x", eval_data="y"), rated, [{**one, "label": 1} for one in CHATS])
    assert (found.layout.kind, found.eval_layout.kind) == ("rated", "rated")
    with pytest.raises(DataError, match="do not fit rated, which needs prompt, completion, label"):
        read(RunSpec(data="x", eval_data="y"), rated, CHATS)


def test_without_evaluation_rows_these_come_from_the_training_rows() -> None:
    found = read(RunSpec(data="x"), CHATS)
    assert found.eval_rows is None
    assert found.held_out == (found.rows, found.layout)
    assert found.eval_fingerprint == found.fingerprint


def test_what_is_passed_goes_before_what_is_named() -> None:
    found = read(RunSpec(data="learned", eval_data="asked"), CHATS, OTHERS, {"learned": OTHERS, "asked": CHATS})
    assert (list(found.rows), list(found.held_out[0])) == (CHATS, OTHERS)


def test_the_training_rows_are_rendered_once_for_all_who_look_at_them() -> None:
    spec, tok = RunSpec(data="x", loss_on="all", system="Be kind."), tokenizer()
    found = read(spec, CHATS)
    rendered = found.rendered(tok, spec)
    assert found.rendered(tok, spec) is rendered is found.rendered_eval(tok, spec)
    assert (rendered.rows, rendered.loss_on, rendered.system) == (found.rows, "all", "Be kind.")
    apart = read(spec, CHATS, OTHERS)
    assert apart.rendered(tok, spec) is not rendered
    assert list(apart.rendered_eval(tok, spec).rows) == CHATS  # named by nothing in the spec


def test_evaluation_rows_are_rendered_as_the_training_rows_are() -> None:
    spec, tok = RunSpec(data="x", eval_data="y", system="Be kind."), tokenizer()
    rendered = read(spec, CHATS, OTHERS).rendered_eval(tok, spec)
    (first, *_) = rendered
    assert (list(rendered.rows), rendered.system) == (OTHERS, "Be kind.")
    assert "Be kind." in tok.decode(list(first.ids))


@pytest.mark.parametrize(
    ("data", "told"),
    [("no_such_data", "no data named 'no_such_data'"), ([{"this": 1, "that": 2}], "this.*that"), ([], "no rows|empty")],
    ids=str,
)
def test_what_cannot_be_found_or_recognised_is_one_line(data: Any, told: str) -> None:
    with pytest.raises(DataError, match=told) as refused:
        read(RunSpec(data="x"), data)
    assert "\n" not in str(refused.value)
