from __future__ import annotations

from pathlib import Path

import pytest

import peft_nb
from peft_nb.errors import DataError, StoreError
from peft_nb.store import Store
from peft_nb.ui import index as page
from peft_nb.ui.index import Index, hits, kept, marked, named
from tests.test_documents_retriever import HANDBOOK


@pytest.fixture(scope="module")
def desk(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("desk")
    (folder / "manuals").mkdir()
    for name, text in HANDBOOK.items():
        (folder / "manuals" / f"{name}.md").write_text(f"# {name.title()} <b>\n\n{text}")
    (folder / "manuals" / "logo.png").write_bytes(b"")
    return page.index(folder / "manuals", model=str(encoder), store=Store(folder / "store"))


def test_an_index_says_what_it_holds(desk: Index, encoder: Path) -> None:
    assert (desk.name, len(desk), list(desk.documents)) == ("manuals", 3, ["source", "chunks", "characters"])
    assert repr(desk).splitlines() == [
        f"index manuals: 3 documents, 3 chunks, 212 characters; embeddings by {encoder}",
        "warning: EMAIL in 1 chunk, first in people.md, People <b>",
        "note: 1 file is none of txt, md, html, htm, pdf, docx, and left out: logo.png",
        'next: manuals.search("…")',
    ]
    shown = desk._repr_html_()
    assert "People &lt;b&gt;" in shown
    assert "<b>" not in shown.replace("<b>index", "")
    assert "returns.md" in shown
    assert "logo.png" in shown


def test_one_that_was_made_is_opened_by_its_name(desk: Index) -> None:
    store = Store(desk.retriever.folder.parents[1])
    assert kept("manuals", store)
    assert not kept("other", store)
    assert not kept("../manuals", store)
    again = peft_nb.index(name="manuals", store=store)
    assert again.search("parcel").equals(desk.search("parcel"))
    with pytest.raises(StoreError, match="no index 'manual'; did you mean 'manuals'"):
        peft_nb.index(name="manual", store=store)
    with pytest.raises(DataError, match="neither documents nor a name"):
        peft_nb.index(store=store)


@pytest.mark.parametrize(
    ("documents", "name"),
    [
        ("/data/Our manuals/", "Our-manuals"),
        ("handbook.pdf", "handbook"),
        ("/", "documents"),
        ({"a": "b"}, "documents"),
    ],
)
def test_an_index_is_named_after_its_documents(documents: object, name: str) -> None:
    assert named(documents) == name


def test_what_was_found_is_shown_with_its_place_and_its_words(desk: Index) -> None:
    shown = hits(desk.search("Parcel <i>"), "Parcel <i>")
    assert "1. returns.md, Returns &lt;b&gt; · score 0.0" in shown
    assert "<mark>parcel</mark> is free" in shown
    assert "rank 1 by words, " in shown
    assert "<b>" not in shown
    assert hits(desk.search("x").head(0), "x") == "<div>nothing found</div>"


def test_marks_are_put_around_whole_words() -> None:
    assert marked("A <cat>, concat, CAT & cats", "cat a") == (
        "A &lt;<mark>cat</mark>&gt;, concat, <mark>CAT</mark> &amp; cats"
    )


def test_many_documents_are_counted(encoder: Path, store: Store) -> None:
    many = page.index({f"text {n}": f"Number {n}." for n in range(22)}, model=str(encoder), store=store)
    assert "and 2 more" in many._repr_html_()
    assert "text 19" in many._repr_html_()
    assert "text 20" not in many._repr_html_()
