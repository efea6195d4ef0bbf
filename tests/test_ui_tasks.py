from __future__ import annotations

from peft_nb.ui import tasks


def test_what_depends_on_the_task() -> None:
    told = {
        task: (tasks.answers_prompts(task), tasks.call(task), tasks.unit(task))
        for task in ("generation", "classification")
    }
    assert told == {"generation": (True, "generate", "token"), "classification": (False, "predict", "text")}
    assert [tasks.learned_from(layout) for layout in ("labelled", "text")] == ["classification", "generation"]
