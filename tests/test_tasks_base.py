"""Which rows a task learns from, and what it says of others."""

from __future__ import annotations

from typing import Any

import pytest

from peft_nb.data.detection import detect
from peft_nb.errors import DataError
from peft_nb.spec import RunSpec
from peft_nb.tasks import TASKS, Task, for_kind


def labelled_rows(*labels: str) -> list[dict[str, str]]:
    return [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("task", "table", "told"),
    [
        ("generation", labelled_rows("a", "b"), "have labels and no answers to learn; set task: classification$"),
        ("classification", [{"question": "a", "answer": "b"}], "format: text_label and columns: {text: …, label: …}$"),
        ("classification", [{"text": "a"}], "task: classification learns a text's label; say which columns"),
        ("classification", [{"prompt": "a", "chosen": "b", "rejected": "c"}], "say which columns hold them"),
    ],
    ids=str,
)
def test_data_that_do_not_fit_the_task_are_refused_with_the_fix(task: str, table: list[Any], told: str) -> None:
    layout = detect(table)
    with pytest.raises(DataError, match=told) as refused:
        TASKS[task].validate(layout, RunSpec(data="x", task=task))
    assert "\n" not in str(refused.value)
    other = for_kind(layout.kind) if layout.kind != "preference" else TASKS["generation"]
    other.validate(layout, RunSpec(data="x", task=other.name))


def test_a_task_that_says_nothing_of_encoding_is_refused_by_its_name() -> None:
    class Half(Task):
        name, help = "half", "to do half of it"
        accepts, wants = ("labelled",), "give labels"

    spec = RunSpec(data="x")
    with pytest.raises(DataError, match="task: half learns from other rows; give labels$"):
        Half().validate(detect([{"question": "a", "answer": "b"}]), spec)
    with pytest.raises(NotImplementedError, match="task half does not say how rows are encoded"):
        Half().encode(None, spec, {})  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="task half does not say how its adapters are used"):
        Half().usage("base", spec, {}, None, chat=True)
