"""Rows from a desk's handbook, with an encoder that is random: what is found is found by its words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from peft_nb.documents.chunks import Chunk
from peft_nb.documents.retriever import Retriever, build
from peft_nb.documents.synthesis import borne_out, synthesize
from peft_nb.documents.templates import Drafted, written
from peft_nb.errors import DataError

HANDBOOK = {
    "returns.md": "# Returns\nGoods are taken back within 30 days.\n\n# Parcels\nA label for a parcel costs nothing.",
    "engine.md": "# Petrel\nThe Petrel is an engine of 4 horse powers.\n\n# Service\nA service takes 3 days in winter.",
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Retriever:
    folder = tmp_path_factory.mktemp("manuals")
    for name, text in HANDBOOK.items():
        (folder / name).write_text(text)
    return build(folder, tmp_path_factory.mktemp("store") / "indexes" / "desk", model=str(encoder), size=100)


def templates(chunks: Sequence[Chunk]) -> list[list[Drafted]]:
    return [written(one) for one in chunks]


def test_every_row_keeps_its_chunk_and_says_who_wrote_it(desk: Retriever) -> None:
    made = synthesize(desk, templates, "templates", rows=50)
    assert len(made.kept) >= 4
    assert set(made.kept.source) == {"returns.md", "engine.md"}
    assert set(made.kept.synthetic) == {"templates"}
    chunks = {one.digest[:16]: one for one in desk.chunks(range(desk.facts.chunks))}
    for row in made.kept.itertuples():
        assert borne_out(row.answer, chunks[row.chunk_id].searched)
        assert (row.source, row.place) == (chunks[row.chunk_id].source, chunks[row.chunk_id].place)
    assert made.notes == [f"only {len(made.kept)} of 50 rows: all {desk.facts.chunks} chunks were written about"]


def test_as_many_as_are_wanted_and_the_same_for_the_same_seed(desk: Retriever) -> None:
    made = synthesize(desk, templates, "templates", rows=2)
    assert len(made.kept) == 2
    assert made.notes == []
    assert made.kept.equals(synthesize(desk, templates, "templates", rows=2).kept)


def test_what_is_dropped_says_why(desk: Retriever) -> None:
    drafts = [
        Drafted("What does a label for a parcel cost?", "A label for a parcel costs nothing."),
        Drafted("what does a label for a parcel cost", "A label for a parcel costs nothing."),
        Drafted("How much is a label for a parcel?", "A label costs 5 euros."),
        Drafted("Label?", "A label for a parcel costs nothing."),
        Drafted("Is there a label for a parcel at all?", ""),
        Drafted("Who sends the label for a parcel to me?", "A label for a parcel costs nothing."),
    ]

    def write(chunks: Sequence[Chunk]) -> list[list[Drafted]]:
        return [drafts if "label" in one.text else [] for one in chunks]

    made = synthesize(desk, write, "me", against=["Who sends the label for a parcel to me?"])
    assert list(made.kept.question) == [drafts[0].question]
    assert dict(zip(made.dropped.question, made.dropped.reason, strict=True)) == {
        drafts[1].question: "near-duplicate of another row",
        drafts[2].question: "answer not found in the chunk",
        drafts[3].question: "question too short",
        drafts[4].question: "answer too short",
        drafts[5].question: "leakage: its question is in the evaluation set",
    }


def test_a_question_has_to_find_its_chunk(desk: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peft_nb.documents.synthesis.FOUND", 1)
    draft = Drafted("Which engine of 4 horse powers is it?", "A label for a parcel costs nothing.")
    made = synthesize(desk, lambda chunks: [[draft] * ("label" in one.text) for one in chunks], "me")
    assert list(made.dropped.reason) == ["its question does not find the chunk"]


def test_interrupted_it_keeps_what_there_is(desk: Retriever) -> None:
    def write(chunks: Sequence[Chunk]) -> list[list[Drafted]]:
        raise KeyboardInterrupt

    made = synthesize(desk, write, "me", rows=9)
    assert made.notes == ["interrupted: 0 of 9 rows, from 4 of 4 chunks"]


def test_no_rows_are_refused(desk: Retriever) -> None:
    with pytest.raises(DataError, match="rows: 0; write 1 or more"):
        synthesize(desk, templates, "templates", rows=0)


@pytest.mark.parametrize(
    ("answer", "held"),
    [("Within 30 days.", True), ("Within 31 days.", False), ("within days", True), ("The goods fly home.", False)],
)
def test_an_answer_is_borne_out_by_its_words_and_all_its_numbers(answer: str, held: bool) -> None:
    assert borne_out(answer, "Goods are taken back within 30 days.") is held
