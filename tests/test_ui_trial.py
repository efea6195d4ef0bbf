"""Classifiers tried on texts; a stand-in for what ``predict`` gives, tests of chat ask a real one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from PIL import Image

from peft_nb.errors import RunError
from peft_nb.tasks import TASKS
from peft_nb.ui.trial import SHOWN, Trial, Tried, html, only
from tests.test_runs_compare import HOSTILE, Page


def classifier(task: str = "classification", **columns: Any) -> Any:
    """What a trial needs of a run."""
    found = pandas.DataFrame({"text": ["?"], **columns})
    return SimpleNamespace(id="lora-1", adapter=SimpleNamespace(task=TASKS[task]), predict=lambda text: found)


def test_probabilities_are_ranked_and_named_as_the_classes_are() -> None:
    columns = {"label": ["text"], "probability": [0.7], "a": [0.1], "p(text)": [0.7], "b": [0.2]}
    trial = Trial(classifier(**columns))
    with pytest.raises(RunError, match="no text was given"):
        trial.ask(" ")
    tried = trial.ask("What?")
    assert tried == Tried("What?", "text (70%)", {"text": 0.7, "b": 0.2, "a": 0.1})
    assert repr(trial).splitlines()[2:] == ["What?", "   70.0%  text", "   20.0%  b", "   10.0%  a"]


def test_images_are_tried_by_their_paths_and_prompts_are_drawn(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(file := tmp_path / "a.png")
    trial = Trial(classifier("image-classification", image=["a.png"], label=["cat"], probability=[0.9], cat=[0.9]))
    assert trial.wants_a_path
    with pytest.raises(RunError, match="no path was given"):
        trial.ask("")
    tried = trial.ask(str(file))
    assert tried.probabilities == {"cat": 0.9}
    assert f'src="{tried.image}"' in html(tried)
    assert trial.ask("b.png", file.read_bytes()) == replace(tried, text="b.png")
    image = Image.new("RGB", (4, 4))
    drawing = Trial(classifier("text-to-image", prompt=["a cat"], image=pandas.Series([image], dtype=object)))
    drawn = drawing.ask("a cat")
    assert drawn.probabilities == {}
    assert drawn.said.startswith("data:image/")
    assert f'src="{drawn.said}"' in html(drawn)
    assert repr(drawing).splitlines()[2:] == ["a cat", "  (an image)"]
    assert (drawing.draws, drawing.wants_a_path) == (True, False)


def test_only_one_run_that_gives_labels_is_tried() -> None:
    labels, writes = classifier(), classifier("generation")
    assert only({"a": labels}) is labels
    assert only({"a": writes}) is only({"a": labels, "b": writes}) is None
    with pytest.raises(RunError, match="run lora-1 writes texts; chat with it"):
        Trial(writes)


def test_many_classes_are_folded_and_foreign_text_is_text() -> None:
    page = Page(html(Tried(HOSTILE, HOSTILE, {f"{n} {HOSTILE}": 0.1 for n in range(SHOWN + 2)})))
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.elements}
    assert "2 more classes" in page.text
