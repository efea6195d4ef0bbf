from __future__ import annotations

import pandas

from peft_nb.spec import METHODS
from peft_nb.ui.methods import Listing, listed


def test_a_notebook_shows_long_texts_whole_and_what_is_taken_is_a_plain_table() -> None:
    table = Listing({"text": ["w" * 500]})
    assert "w" * 500 in (table._repr_html_() or "")
    assert type(table[["text"]]) is pandas.DataFrame


def test_every_method_is_listed() -> None:
    assert list(listed(None, {}).index) == list(METHODS)
