from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import peft_nb
from peft_nb import Labels, Run
from peft_nb.data import sources
from peft_nb.evaluation.acquisition import Curve
from peft_nb.ui.label import KEYS, card, curve
from tests.test_runs_compare import HOSTILE, Page
from tests.test_runs_labelling import kind_of, topics  # noqa: F401


@pytest.fixture
def labels(topics: Run, encoder: Path, labelled: list[dict[str, str]], tmp_path: Path) -> Labels:  # noqa: F811
    pool = [HOSTILE, *(row["text"] for row in labelled[40:60])]
    how: dict[str, Any] = {"budget": 21, "strategy": "random", "encoder": str(encoder), "store": topics.store}
    return peft_nb.label(pool, topics, out=tmp_path / "labelled", by="ann", **how)


def test_rows_are_labelled_from_python_and_are_data(labels: Labels) -> None:
    assert labels.rows.empty
    item = labels.next()
    assert item
    labels.label()
    labels.skip()
    labels.undo()
    assert list(labels.decisions.did) == ["label", "skip", "undo"]
    assert list(labels.rows.label) == [item.guess]
    assert os.fspath(labels) == str(labels.labelling.folder)
    assert len(sources.read(labels).train) == len(sources.read("found", {"found": labels}).train) == 1
    assert labels.pairs.empty
    assert labels.agreement.empty
    assert repr(labels).splitlines()[0] == "topics v1: 1 of 21 rows labelled by ann, 1 as guessed, 0 skipped, 20 left"
    assert repr(labels).splitlines()[-1].startswith("next: label 20 more rows, or stop here")
    while labels.next():
        labels.skip()
    assert "next: retrain topics with these rows" in repr(labels)
    again = labels.retrain(max_steps=1, name="again")
    assert (again.status, again.version) == ("finished", "again v1")
    assert len(sources.read(str(again.spec.data)).train) == 33


def test_foreign_text_is_escaped_and_every_class_has_a_key(labels: Labels) -> None:
    hostile = next(row["key"] for row in labels.labelling.queue if row["prompt"] == HOSTILE)
    while (item := labels.next()) and item.key != hostile:
        labels.skip()
    shown = card(labels.next(), labels.labelling)
    assert HOSTILE not in shown
    assert Page(shown).open == []
    for number, name in enumerate(labels.labelling.classes):
        assert f'data-key="{KEYS[number]}"' in shown
        assert name in Page(shown).text
    labels.label(f"+{HOSTILE}")
    drawn = labels._repr_html_()
    assert HOSTILE not in drawn
    assert Page(drawn).open == []
    assert "Last decisions" in Page(drawn).text


def test_two_people_are_compared_on_the_page(labels: Labels, encoder: Path) -> None:
    ben = peft_nb.label([], labels.labelling.run, budget=21, out=labels, by="ben", encoder=str(encoder))
    for one in (labels, ben):
        for _ in range(3):
            one.label(kind_of(str(one.next().prompt)) if one.next().prompt != HOSTILE else "tool")  # type: ignore[union-attr]
    assert list(ben.agreement) == ["first", "second", "rows", "equal", "kappa", "low", "high"]
    assert ben.agreement[["first", "second", "rows", "equal"]].values.tolist() == [["ann", "ben", 3, 3]]
    assert "ann and ben: 3 of 3 rows alike" in Page(ben._repr_html_()).text
    assert "ann and ben: 3 of 3 rows alike" in repr(ben)


def test_the_curve_is_drawn_with_its_verdict() -> None:
    found = curve(Curve("both", (10, 20), (0.5, 0.625), (0.4, 0.6), 0.05, -0.01, 0.11))
    assert "no gain over random choice is shown" in Page(found).text
    assert "62 %" in Page(found).text
