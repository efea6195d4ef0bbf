"""The rows that a run learned from are found again, as its data hold them and as its model saw them."""

from __future__ import annotations

from pathlib import Path

import pytest

from peft_nb import Run
from peft_nb.data.kept import kept
from peft_nb.errors import DataError, RunError
from peft_nb.runs import training_rows
from peft_nb.runs.run import load


def test_rows_are_read_again_and_split_as_in_training(finished: Run, rows: list[dict[str, str]]) -> None:
    sides = kept(finished.folder)
    assert sides
    train, held_out = training_rows.split(finished, training_rows.table(finished))
    assert [row["question"] for row in train] == [rows[number]["question"] for number in sorted(sides.train.rows)]
    assert [row["question"] for row in held_out] == [rows[number]["question"] for number in sorted(sides.held_out.rows)]
    assert len(train) + len(held_out) == len(rows)


def test_prompts_and_answers_are_read_off_what_the_model_saw(finished: Run, rows: list[dict[str, str]]) -> None:
    prompts, answers = training_rows.examples(finished, 5)
    assert len(prompts) == 5
    told = {row["question"]: row["answer"] for row in rows}
    assert [told[prompt] for prompt in prompts] == answers


def test_rows_that_are_gone_are_one_line(finished: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    again = load(finished.id, store=finished.store)  # as after a restart, which forgets rows that were in memory
    assert training_rows.table(again) is None
    with pytest.raises(DataError, match="are gone or changed; put"):
        training_rows.go_on(again, None, [], tmp_path, [], {})
    assert not [*tmp_path.iterdir()]
    monkeypatch.setattr(training_rows, "kept", lambda folder: None)
    with pytest.raises(RunError, match="have left the store; train it again first"):
        training_rows.examples(finished, 5)
