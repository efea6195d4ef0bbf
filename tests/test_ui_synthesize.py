from __future__ import annotations

from pathlib import Path

import pytest

import peft_nb
from peft_nb.data.detection import detect
from peft_nb.data.quality.checks import check
from peft_nb.errors import DataError
from peft_nb.store import Store
from peft_nb.ui.index import Index
from peft_nb.ui.synthesize import Synthesized, headline, page, synthesize

DESK = {
    "returns.md": "# Returns <b>\nGoods come back within 30 days.\n\n# Parcels\nA label for a parcel costs nothing.",
    "people.md": "# People\nAnna Berg is the head of the desk. Write to anna.berg@tidewater.shop about invoices.",
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Index:
    folder, store = tmp_path_factory.mktemp("manuals"), Store(tmp_path_factory.mktemp("store"))
    for name, text in DESK.items():
        (folder / name).write_text(text)
    return peft_nb.index(folder, name="desk", model=str(encoder), size=120, store=store)


@pytest.fixture(scope="module")
def made(desk: Index) -> Synthesized:
    return synthesize(desk, 50)


def test_rows_train_a_run_and_are_reported_as_synthetic(made: Synthesized) -> None:
    rows = made.rows.to_dict("records")
    layout = detect(rows)
    assert (layout.kind, layout.columns) == ("chat", {"question": "question", "answer": "answer"})
    checked = check(rows, layout)
    assert not [one for one in checked.findings if one.kind in ("unused_column", "judgement")]
    assert f"{len(made)} of {len(made)} rows are synthetic, written by templates" in checked.notes
    mixed = [dict(row, synthetic=number == 0) for number, row in enumerate(rows)]
    assert f"1 of {len(made)} rows are synthetic, written by a machine" in check(mixed, detect(mixed)).notes


def test_the_page_shows_rows_and_what_was_dropped(desk: Index) -> None:
    made = synthesize(desk, 50, eval_data=[{"question": "How much does a label for a parcel cost?", "answer": "0"}])
    assert "leakage: its question is in the evaluation set" in made.reasons
    html = page(made)
    assert headline(made) in repr(made)
    assert "leakage: its question is in the evaluation set" in html
    assert "What can you tell me about Anna Berg?" in html
    assert "Returns &lt;b&gt;" in html
    assert "<b>\n" not in html
    assert made.rows.question.isin(made.dropped.question).sum() == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"address": "https://api.example.org/v1"}, "model: not named; an address needs the name of the model there"),
        ({"eval_data": [{"text": "A label."}]}, "eval_data: .*; give rows with questions"),
    ],
)
def test_mistakes_are_one_line(desk: Index, given: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        synthesize(desk, 5, **given)  # type: ignore[arg-type]


def test_personal_data_are_not_sent_away_unless_told(desk: Index) -> None:
    with pytest.raises(DataError, match=r"^the documents hold EMAIL, and would be sent to https://.*allow_pii=True"):
        synthesize(desk, 5, address="https://127.0.0.1:9/v1", model="writer")
    with pytest.raises(DataError, match=r"cannot be reached"):
        synthesize(desk, 5, address="https://127.0.0.1:9/v1", model="writer", allow_pii=True)


def test_a_small_model_is_warned_of(desk: Index, base: Path) -> None:
    made = synthesize(desk, 5, model=str(base))
    assert len(made) == 0
    assert any("what so small a model writes is often wrong" in note for note in made.notes)
    assert "0 rows from 0 chunks" in page(made)


def test_what_is_no_index_is_refused() -> None:
    with pytest.raises(DataError, match="index: a str is none; make one with peft_nb.index"):
        synthesize("kb")  # type: ignore[arg-type]
