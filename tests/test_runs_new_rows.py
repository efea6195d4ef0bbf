"""New rows in each of the forms in which they come."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peft_nb import Run
from peft_nb.data.kept import kept
from peft_nb.errors import DataError
from peft_nb.events import silent
from peft_nb.runs import new_rows
from peft_nb.runs.new_rows import Side
from tests import speech


@pytest.fixture(scope="module")
def read(kinds: dict[str, Run]) -> Callable[..., Side]:
    return lambda rows: new_rows.new(kinds["fruit"], rows, {"named": rows}, silent)


def test_prompts_come_as_texts_as_a_table_or_with_answers(read: Callable[..., Side]) -> None:
    assert read([" plum ", "", "fig"]).texts == ["plum", "fig"]
    asked = read([{"prompt": "plum"}, {"prompt": "fig"}])
    assert (asked.texts, asked.answered, asked.examples) == (["plum", "fig"], False, None)
    answered = read([{"prompt": "plum", "completion": "fruit"}, {"prompt": "fig", "completion": "fruit"}])
    assert (answered.texts, answered.answered, len(answered.examples)) == (["plum", "fig"], True, 2)
    with pytest.raises(DataError, match="these rows are none that generation learns from"):
        read([{"text": "plum", "label": "fruit"}] * 3)


def test_a_log_gives_prompts_and_the_answers_that_there_are(read: Callable[..., Side], tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"asked": "plum", "answer": "fruit"}, {"asked": "fig", "answer": None}, {"asked": ""}]
    file = tmp_path / "log.jsonl"
    file.write_text("\n".join(json.dumps({"at": "now", "version": "v1", **row}) for row in rows))
    found = read(file)
    assert (found.texts, found.answers) == (["plum", "fig"], [("plum", "fruit")])


def test_what_a_run_learned_is_read_off_its_store(kinds: dict[str, Run]) -> None:
    run = kinds["fruit"]
    sides = kept(run.folder)
    assert sides
    found = new_rows.kept_side(run, sides.train)
    assert len(found) == 30
    assert {word for text in found.texts for word in text.split()} == {"apple", "plum", "fig"}


def test_clips_come_alone_or_as_rows(listener: Run) -> None:
    rows = speech.rows(9)
    alone = new_rows.new(listener, [row["audio"] for row in rows], {}, silent)
    assert (len(alone), alone.answered) == (9, False)
    assert not any(one.supervised.count(1) for one in alone.examples)
    whole = new_rows.new(listener, rows, {}, silent)
    assert (len(whole), whole.answered) == (9, True)
    assert [one.signal for one in whole.examples] == [one.signal for one in alone.examples]
