"""A pool labelled with a real classifier and a real writer, and trained on again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peft_nb import Run
from peft_nb.data import sources
from peft_nb.data.kept import kept
from peft_nb.errors import DataError, RunError
from peft_nb.evaluation.acquisition import entropy, margin
from peft_nb.runs.labelling import Labelling
from peft_nb.runs.run import begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests.conftest import KINDS

Rows = list[dict[str, str]]


def kind_of(text: str) -> str:
    (kind,) = {kind for kind, words in KINDS.items() if {*words} & {*text.split()} - {"saw"}} or {"tool"}
    return kind


@pytest.fixture(scope="module")
def topics(encoder: Path, labelled: Rows, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A classifier that has learned from 40 texts, of which 8 are held out."""
    spec = RunSpec(
        **{"model": str(encoder), "data": "learned", "task": "classification", "name": "topics", "eval_fraction": 0.2},
        **{"dtype": "float32", "device": "cpu", "batch_size": 20, "max_steps": 25, "learning_rate": 0.005},
        **{"eval_steps": None, "judge": "off"},
    )
    store = Store(tmp_path_factory.mktemp("topics"))
    return begin(spec, namespace={"learned": labelled[:40]}, store=store).wait()


@pytest.fixture
def label(topics: Run, encoder: Path, labelled: Rows, tmp_path: Path) -> Callable[..., Labelling]:
    pool = [row["text"] for row in labelled[30:200]]

    def label(rows: Any = None, run: Run = topics, **options: Any) -> Labelling:
        usual = {"budget": 6, "by": "ann", "encoder": str(encoder), "folder": tmp_path / "labelled"}
        return Labelling(pool if rows is None else rows, run, **{**usual, **options})

    return label


def test_decisions_outlive_the_kernel_and_become_rows(label: Callable[..., Labelling], tmp_path: Path) -> None:
    first = label()
    assert first.counts() == {"labelled": 0, "kept": 0, "skipped": 0, "left": 6, "rows": 6}
    assert any("the run learned from or is evaluated on were left out" in note for note in first.notes)
    item = first.next()
    assert item
    assert item.probabilities[item.guess] == max(item.probabilities.values()) == item.confidence
    assert [one.similarity for one in item.similar] == sorted((one.similarity for one in item.similar), reverse=True)
    first.label()
    wrong = next(kind for kind in KINDS if kind != first.next().guess)  # type: ignore[union-attr]
    first.label(wrong)
    first.skip()
    again = label()
    assert [one["key"] for one in again.queue] == [one["key"] for one in first.queue]
    assert again.counts() == {"labelled": 2, "kept": 1, "skipped": 1, "left": 3, "rows": 6}
    assert again.next() == first.next()
    rows = list(sources.read(str(tmp_path / "labelled")).train)
    assert rows[0] == {"text": item.prompt, "label": item.guess, "labelled_by": "ann", "guessed_by": "topics v1"}
    assert rows[1]["label"] == wrong
    assert again.undo()
    assert again.counts()["skipped"] == 0
    assert again.undo()
    assert len(sources.read(tmp_path / "labelled").train) == 1
    kept = [json.loads(line) for line in (tmp_path / "labelled" / "decisions.jsonl").read_text().splitlines()]
    assert [one["did"] for one in kept] == ["label", "label", "skip", "undo", "undo"]
    assert kept[1]["guess"] != kept[1]["answer"] == wrong


def test_a_larger_budget_goes_on_and_no_row_comes_twice(label: Callable[..., Labelling]) -> None:
    label()
    more = label(budget=20, strategy="random")
    keys = [one["key"] for one in more.queue]
    assert len({*keys}) == len(keys) == 20
    assert [one["why"] for one in more.queue] == ["both"] * 6 + ["random"] * 14
    while more.left:
        more.label(kind_of(str(more.next().prompt)))  # type: ignore[union-attr]
    with pytest.raises(DataError, match="all 20 rows are done; raise --budget for more"):
        more.label()
    last = label([str(more.queue[0]["prompt"])], budget=21)
    assert len(last.queue) == 20
    assert last.notes == ["the pool holds no more rows that are new to the run"]


@pytest.mark.parametrize("strategy", ["uncertainty", "entropy"])
def test_the_rows_that_the_run_is_least_sure_of_come_first(
    label: Callable[..., Labelling], strategy: str, tmp_path: Path
) -> None:
    every = [str(row["prompt"]) for row in label(budget=500, strategy="random", folder=tmp_path / "every").queue]
    assert len(every) > 100
    told = label(strategy="random").run.predict(every).iloc[:, 3:].to_numpy()
    doubt = dict(zip(every, {"uncertainty": margin, "entropy": entropy}[strategy](told), strict=True))
    chosen = [str(row["prompt"]) for row in label(strategy=strategy, folder=tmp_path / "some").queue]
    assert [doubt[text] for text in chosen] == pytest.approx(sorted(doubt.values(), reverse=True)[:6], abs=1e-4)


def test_two_people_label_the_same_rows(label: Callable[..., Labelling], tmp_path: Path) -> None:
    ann, ben = label(), label(by="ben")
    assert ann.queue == ben.queue
    for place in range(5):
        truth = kind_of(str(ann.next().prompt))  # type: ignore[union-attr]
        other = next(kind for kind in KINDS if kind != truth)
        ann.label(truth)
        ben.label(truth if place else other)
    ((first, second, found),) = ann.agreement()
    assert (first, second, found.rows, found.equal) == ("ann", "ben", 5, 4)
    assert len(sources.read(tmp_path / "labelled").train) == 4
    rows, disputed = ann.decisions.agreed()
    assert [who for _, who in rows] == [["ann", "ben"]] * 4
    assert disputed == [ann.queue[0]["key"]]
    label(by="cy").label(kind_of(str(ann.queue[0]["prompt"])))
    assert not ann.decisions.agreed()[1]


def test_a_new_run_learns_from_both_and_keeps_its_evaluation_set(
    label: Callable[..., Labelling], topics: Run, labelled: Rows
) -> None:
    with pytest.raises(DataError, match="holds no labelled rows yet"):
        label().retrain()
    found = label()
    while found.left:
        found.label(kind_of(str(found.next().prompt)))  # type: ignore[union-attr]
    run = found.retrain(max_steps=2).wait()
    assert run.version == "topics v2"
    assert topics.id in str(run.facts.init_adapter)
    assert len(sources.read(str(run.spec.data)).train) == 32 + 6
    sides = kept(topics.folder)
    assert sides
    held_out = [labelled[number]["text"] for number in sorted(sides.held_out.rows.tolist())]
    assert [row["text"] for row in sources.read(str(run.spec.eval_data)).train] == held_out
    label(budget=7).label("+fish")
    anew = label().retrain(max_steps=1).wait()
    assert anew.facts.init_adapter is None
    assert anew.facts.task["classes"] == ["bird", "fish", "fruit", "tool"]


def test_the_curve_says_what_the_strategy_gains(label: Callable[..., Labelling]) -> None:
    found = label(budget=45)
    assert found.notes[-1].endswith(
        "rows for 45 labels: so few leave little to choose; take more rows, or strategy random"
    )
    with pytest.raises(DataError, match="0 labelled rows are too few for a curve; label 40 or more"):
        found.curve()
    while found.left:
        found.label(kind_of(str(found.next().prompt)))  # type: ignore[union-attr]
    curve = found.curve()
    assert curve.strategy == "both"
    assert curve.low <= curve.gain <= curve.high
    assert found.curve_found is curve


def test_a_class_that_there_is_not_is_refused_and_a_new_one_marked(label: Callable[..., Labelling]) -> None:
    found = label()
    with pytest.raises(DataError, match=r"there is no class 'frut'; did you mean 'fruit'\?, or \+frut for a new one"):
        found.label("frut")
    assert found.label("+fish").answer == "fish"
    assert found.label("fish").answer == "fish"


def test_answers_become_rows_and_pairs(
    label: Callable[..., Labelling], kinds: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = kinds["fruit"]
    found = label([{"question": "plum fig"}, {"question": "fig fig apple"}, {"question": "owl"}], run, budget=3)
    asked = list[int]()
    monkeypatch.setattr(type(run), "generate", lambda self, prompts, **options: asked.append(len(prompts)))
    item = found.next()
    assert item
    assert not asked  # all three were answered together, before the first was shown
    monkeypatch.undo()
    assert item.answers[0] == item.guess == run.generate(item.prompt, max_new_tokens=128)
    assert 0 < item.confidence <= 1
    assert item.similar[0].answer == "fruit"
    found.label("It is fruit.")
    found.label()
    rows = list(sources.read(tmp_path / "labelled").train)
    assert rows[0] | {"labelled_by": "ann"} == rows[0]
    assert (rows[0]["prompt"], rows[0]["completion"]) == (item.prompt, "It is fruit.")
    pairs = list(sources.read(tmp_path / "labelled" / "pairs.jsonl").train)
    assert {(one["chosen"], one["rejected"]) for one in pairs if one["prompt"] == item.prompt} == {
        ("It is fruit.", other) for other in item.answers if other
    }
    assert found.agreement() == []
    with pytest.raises(DataError, match="a curve is drawn of classes alone"):
        found.curve()
    again = found.retrain(max_steps=1).wait()
    assert len(sources.read(str(again.spec.data)).train) == 32
    assert again.facts.init_adapter


def test_what_cannot_be_labelled_is_one_line(
    label: Callable[..., Labelling], labelled: Rows, listener: Run, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="the pool holds no row that is new to the run"):
        label([row["text"] for row in labelled[:9]])
    with pytest.raises(RunError, match="reads no texts, and texts alone are labelled so far"):
        label(run=listener)
    with pytest.raises(DataError, match="strategy bot: not one of both, .*did you mean 'both'"):
        label(strategy="bot")
    (tmp_path / "labelled").mkdir()
    (tmp_path / "labelled" / "other.txt").write_text("mine")
    with pytest.raises(DataError, match="exists and holds no decisions; choose another name with --out"):
        label()
