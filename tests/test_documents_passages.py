from __future__ import annotations

from pathlib import Path

from peft_nb.documents.passages import Passage, retrieve
from peft_nb.documents.retriever import build
from tests.test_documents_retriever import HANDBOOK


def test_questions_get_what_a_search_finds(tmp_path: Path, encoder: Path) -> None:
    desk = build(HANDBOOK, tmp_path / "indexes" / "desk", model=str(encoder), size=100)
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    asked = ["the label for a parcel", [*talk, {"role": "user", "content": "invoices"}]]
    laid, passages = retrieve(desk, asked, 2)
    for (*before, last), found, question in zip(laid, passages, ("the label for a parcel", "invoices"), strict=True):
        hits = desk.search(question, 2)
        assert found == [Passage(*one) for one in hits[["source", "place", "text", "score"]].itertuples(index=False)]
        assert last["content"] == f"[1] {found[0].text}\n\n[2] {found[1].text}\n\n{question}"
        assert before in ([], talk)
