from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peft_nb.data import sources
from peft_nb.data.decisions import LABEL, SKIP, Decision, Decisions, holds, key_of, lines, rows_of
from peft_nb.errors import DataError


def write(one: Decision) -> dict[str, Any]:
    return {"text": one.prompt, "label": one.answer}


def decided(text: str, answer: str, by: str = "ann", **told: Any) -> Decision:
    return Decision(key_of(text), LABEL if answer else SKIP, by, text, answer, version="topics v1", **told)


@pytest.fixture
def kept(tmp_path: Path) -> Decisions:
    return Decisions(tmp_path / "labelled", write)


def test_each_decision_is_on_disk_at_once_and_read_by_others(kept: Decisions) -> None:
    kept.add(decided("a", "x"))
    kept.add(decided("b", ""))
    other = Decisions(kept.folder, write)
    assert [(one.prompt, one.did) for one in other.all()] == [("a", "label"), ("b", "skip")]
    assert other.all()[0].at < other.all()[1].at or other.all()[0].at
    row = {"text": "a", "label": "x", "labelled_by": "ann", "guessed_by": "topics v1"}
    assert list(sources.read(kept.folder).train) == list(sources.read(str(kept.folder)).train) == [row]


def test_a_line_that_a_crash_tore_off_costs_nothing_else(kept: Decisions) -> None:
    kept.add(decided("a", "x"))
    with (kept.folder / "decisions.jsonl").open("a") as out:
        out.write('{"key": "torn')
    kept.add(decided("b", "y"))
    assert [one.prompt for one in kept.all()] == ["a", "b"]


def test_undo_takes_back_the_last_decision_of_that_person(kept: Decisions) -> None:
    assert kept.undo("ann") is None
    kept.add(decided("a", "x"))
    kept.add(decided("b", "y"))
    kept.add(decided("b", "z", by="ben"))
    undone = kept.undo("ann")
    assert undone
    assert (undone.prompt, undone.answer) == ("b", "y")
    assert [(one.prompt, one.by) for one in kept.current().values()] == [("a", "ann"), ("b", "ben")]
    assert kept.undo("ann") == kept.all()[0]
    assert kept.undo("ann") is None
    assert [row["label"] for row in sources.read(kept.folder).train] == ["z"]


def test_what_most_people_say_counts_and_a_draw_is_left_out(kept: Decisions) -> None:
    for by, answer in (("ann", "x"), ("ben", "y")):
        kept.add(decided("a", answer, by))
        kept.add(decided("b", "x", by))
    assert kept.agreed()[1] == [key_of("a")]
    assert [row["text"] for row in sources.read(kept.folder).train] == ["b"]
    kept.add(decided("a", "y", "cy"))
    ((one, who),) = [found for found in kept.agreed()[0] if found[0].prompt == "a"]
    assert (one.answer, who) == ("y", ["ben", "cy"])


def test_of_texts_the_newest_counts_and_pairs_are_kept(tmp_path: Path) -> None:
    kept = Decisions(tmp_path / "labelled", write, classes=False)
    kept.add(decided("a", "long"))
    kept.add(decided("a", "brief", "ben", rejected=("long", "longer")))
    assert [row["label"] for row in sources.read(kept.folder).train] == ["brief"]
    pairs = [json.loads(line) for line in (kept.folder / "pairs.jsonl").read_text().splitlines()]
    assert [(one["prompt"], one["chosen"], one["rejected"]) for one in pairs] == [
        ("a", "brief", "long"), ("a", "brief", "longer"),
    ]  # fmt: skip
    kept.undo("ben")
    assert (kept.folder / "pairs.jsonl").read_text() == ""


def test_folders_without_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "queue.json").write_text("[]")
    assert holds(tmp_path)
    with pytest.raises(DataError, match="holds no labelled rows yet; label some with %peft label"):
        sources.read(tmp_path)
    with pytest.raises(DataError):
        rows_of(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="holds no decisions; choose another name with --out"):
        Decisions(tmp_path / "file", write)


def test_rows_are_lines_of_json() -> None:
    assert lines([{"a": "ä"}, {"b": Path("x")}]) == '{"a": "ä"}\n{"b": "x"}\n'
