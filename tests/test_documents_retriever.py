"""An index over a desk's handbook, with an encoder that is random: meaning is tested where a real one is."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from peft_nb.documents import retriever
from peft_nb.documents.retriever import Retriever, build, folder_of
from peft_nb.errors import DataError, StoreError
from peft_nb.models import ALIASES
from peft_nb.models.resolve import resolve

HANDBOOK = {
    "returns": "You may send goods back within 30 days.\n\nThe label for a parcel is free.",
    "opening": "The shop by the harbour opens at nine in the morning.\n\nOn Sundays it is closed.",
    "people": "Write to Anna Berg, anna.berg@tidewater.shop, about invoices.",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "indexes" / "desk"


@pytest.fixture(scope="module")
def desk(folder: Path, encoder: Path) -> Retriever:
    return build(HANDBOOK, folder, model=str(encoder), size=100)


def test_the_words_asked_for_are_found(desk: Retriever) -> None:
    found = desk.search("a label for my PARCEL")
    assert list(found) == ["source", "place", "text", "score", "by_words", "by_meaning"]
    assert found.source.iloc[0] == "returns"
    assert found.by_words.iloc[0] == 1
    assert "parcel" in found.text.iloc[0]
    assert list(found.score) == sorted(found.score, reverse=True)
    assert len(desk.search("parcel", k=1)) == 1


def test_scores_are_those_of_reciprocal_rank_fusion(desk: Retriever) -> None:
    for _, hit in desk.search("harbour invoices").iterrows():
        ranks = [rank for rank in (hit.by_words, hit.by_meaning) if not pd.isna(rank)]
        assert hit.score == pytest.approx(sum(1 / (60 + rank) for rank in ranks))


def test_what_no_word_fits_is_ranked_by_meaning_alone(desk: Retriever) -> None:
    found = desk.search("xyzzy")
    assert len(found) == desk.facts.chunks == 3
    assert found.by_words.isna().all()
    assert list(found.by_meaning) == [1, 2, 3]


def test_the_index_is_the_same_when_it_is_opened(desk: Retriever, folder: Path) -> None:
    again = Retriever(folder)
    assert again.facts == desk.facts
    assert again.search("parcel").equals(desk.search("parcel"))
    assert list(again.documents().source) == list(HANDBOOK)
    assert again.documents().chunks.sum() == again.facts.chunks


def test_personal_data_and_secrets_are_found(desk: Retriever) -> None:
    assert desk.found() == {"EMAIL": (1, "people, line 1")}


def test_only_what_is_new_is_embedded(desk: Retriever, folder: Path, encoder: Path) -> None:
    assert desk.facts.embedded == 3
    vectors = np.array(desk._vectors)
    more = {"moved": HANDBOOK["returns"], "people": HANDBOOK["people"], "news": "A second shop opens in May."}
    after = build(more, folder, model=str(encoder), size=100)
    assert (after.facts.embedded, after.facts.chunks) == (1, 3)
    np.testing.assert_array_equal(after._vectors[:2], vectors[[0, 2]])
    assert list(after.documents().source) == list(more)
    assert after.found() == {"EMAIL": (1, "people, line 1")}
    assert after.search("harbour").by_words.isna().all()
    assert len(desk.search("harbour")) == 3  # what was open before stays whole


def test_what_fails_leaves_the_index_as_it_was(encoder: Path, tmp_path: Path) -> None:
    build(HANDBOOK, tmp_path / "desk", model=str(encoder))
    with pytest.raises(DataError):
        build({"empty": " "}, tmp_path / "desk", model=str(encoder))
    assert len(Retriever(tmp_path / "desk").documents()) == 3
    assert [one.name for one in tmp_path.iterdir()] == ["desk"]


def test_a_damaged_index_is_told_and_made_anew(encoder: Path, tmp_path: Path) -> None:
    build(HANDBOOK, tmp_path / "desk", model=str(encoder))
    (tmp_path / "desk" / "chunks.sqlite").write_bytes(b"nothing of the kind, at some length" * 10)
    with pytest.raises(StoreError, match="is damaged .* build it again"):
        Retriever(tmp_path / "desk")
    assert build(HANDBOOK, tmp_path / "desk", model=str(encoder)).facts.chunks == 3


def test_an_index_that_is_not_there_is_told_with_those_that_are(desk: Retriever, folder: Path) -> None:
    with pytest.raises(StoreError, match="no index 'desc'; did you mean 'desk'"):
        Retriever(folder.with_name("desc"))
    with pytest.raises(StoreError, match="cannot name an index"):
        folder_of("../desk", folder)
    assert folder_of("desk", folder.parents[1]) == folder


@pytest.mark.parametrize(("text", "k", "said"), [(" ", 5, "an empty text"), ("x", 0, "k is 0; write 1 or more")])
def test_a_search_for_nothing_is_refused(desk: Retriever, text: str, k: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        desk.search(text, k)


def test_chunks_of_no_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="size: 10 characters are too few"):
        build(HANDBOOK, tmp_path / "desk", size=10)


def test_nothing_is_kept_that_could_run(folder: Path, desk: Retriever) -> None:
    kinds = {one.suffix for one in folder.rglob("*") if one.is_file()}
    assert kinds <= {".npy", ".json", ".sqlite"}
    for file in folder.rglob("*.npy"):
        np.load(file, allow_pickle=False)
    with sqlite3.connect(folder / "chunks.sqlite") as db:
        assert {name: json.loads(value) for name, value in db.execute("SELECT * FROM facts")}


@pytest.mark.exhaustive
@pytest.mark.skipif(resolve("minilm-l6").where != "cached", reason=f"needs {ALIASES['minilm-l6'].wheel}")
def test_a_real_encoder_finds_what_is_meant_in_other_words(tmp_path: Path) -> None:
    desk = build(HANDBOOK, tmp_path / "desk", size=100)
    for asked, wanted in (
        ("When do you start work?", "opening"),
        ("I do not like the jacket, can it be shipped to you again?", "returns"),
        ("Whom do I ask about a bill?", "people"),
    ):
        found = desk.search(asked)
        assert found.source[found.by_meaning == 1].item() == wanted


def test_many_questions_find_what_each_finds_alone(desk: Retriever) -> None:
    asked = ["a label for my PARCEL", "xyzzy", "invoices"]
    ranked = desk.rank(asked, 2)
    for text, hits in zip(asked, ranked, strict=True):
        found = desk.search(text, 2)
        assert [hit.chunk for hit in hits] == found.index.tolist()
        assert [hit.score for hit in hits] == found.score.tolist()
    assert desk.rank([], 2) == []


def test_a_fingerprint_tells_what_the_chunks_say(tmp_path: Path, encoder: Path) -> None:
    texts = {"one": "Sheds are dry.", "two": "Boats are wet."}
    same, again, other = (
        build(given, tmp_path / name, model=str(encoder)).fingerprint
        for name, given in (("a", texts), ("b", texts), ("c", texts | {"two": "Boats are dry."}))
    )
    assert same == again != other


def test_chunks_are_named_by_text_document_or_number(desk: Retriever) -> None:
    (first,) = desk.chunks([0])
    assert desk.named(first.text, "") == desk.named("returns", "30 days") == desk.named(0, "") == 0
    assert desk.named("people", "") == 2
    assert desk.named(3, "") is None
    assert desk.named("cellar", "") is None


def test_very_many_chunks_are_told(tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retriever, "MANY", 1)
    found = build(["one", "two"], tmp_path / "many", model=str(encoder))
    assert found.facts.notes == ("each question is compared with all 2 chunks, which takes longer the more there are",)
