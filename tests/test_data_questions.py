"""Prompts to examples: of tables with answers and without, cut nowhere, told apart from other examples."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from peft_nb.data import encoding, questions
from peft_nb.data.detection import detect
from peft_nb.data.rendered import RenderedRows
from peft_nb.data.rendering import render
from peft_nb.errors import DataError

ROWS = [{"question": "Where is it?", "answer": "Here."}, {"question": "Who?", "answer": "She."}]


def rendered(rows: list[dict[str, str]], base: Path) -> RenderedRows:
    return RenderedRows(rows, detect(rows), AutoTokenizer.from_pretrained(base), system="Be kind.")


def test_a_prompt_ends_where_an_answer_begins(base: Path) -> None:
    with_answers = rendered(ROWS, base)
    alone = rendered([{"prompt": row["question"], "size": "1"} for row in ROWS], base)
    assert alone.layout.kind == "prompt"
    found, same = (questions.encode(one, max_length=64) for one in (with_answers, alone))
    turn = [{"role": "user", "content": "Where is it?"}]
    assert list(found.examples[0].ids) == render(with_answers.tokenizer, turn, system="Be kind.", generation=True)
    assert [list(one.ids) for one in found.examples] == [list(one.ids) for one in same.examples]
    assert [one.labels for one in found.examples] == [(0, 0), (1, 0)]
    held_out = questions.encode(alone, max_length=64, row_name=questions.EVALUATION)
    assert [one.labels for one in held_out.examples] == [(0, 1), (1, 1)]
    assert "in the loss" not in str(found.report)


def test_a_long_prompt_is_dropped_and_counted(base: Path) -> None:
    rows = [*ROWS, {"question": "Where " * 50, "answer": "Here."}]
    found = questions.encode(rendered(rows, base), max_length=40)
    assert len(found.examples) == 2
    assert "1 dropped as longer than 40" in str(found.report)
    with pytest.raises(DataError, match="raise max_length"):
        questions.encode(rendered(rows[2:], base), max_length=40)


def test_what_is_kept_is_not_taken_for_whole_conversations(base: Path, tmp_path: Path) -> None:
    how = {"max_length": 64, "too_long": "drop"}
    names = [kind.cached(tmp_path, "same", rendered(ROWS, base), **how)[0] for kind in (questions, encoding)]
    assert names[0] != names[1]
