from __future__ import annotations

from pathlib import Path

from peft_nb.store import Store
from peft_nb.ui.index import index
from peft_nb.ui.panels.index import IndexPanel
from tests.test_documents_retriever import HANDBOOK
from tests.test_ui_panels_trial import settled
from tests.widgets import button_of, words_of


def test_documents_are_searched(encoder: Path, store: Store) -> None:
    panel = IndexPanel(index(HANDBOOK, name="desk", model=str(encoder), store=store))
    assert "index desk: 3 documents" in words_of(panel.box)
    button_of(panel.box, "Search").click()
    assert not panel.hits.value
    panel.asked.value = "a parcel"
    assert "3 of 3 chunks" in settled(panel)
    assert "<mark>parcel</mark>" in panel.hits.value
