from __future__ import annotations

import pandas

from peft_nb.runs.forget import COLUMNS, Forget
from peft_nb.ui.forget import NOT_DONE, Page


def test_what_was_found_is_shown_and_that_nothing_was_changed() -> None:
    row = ("desk v1", "desk@production", "training rows", "1 (3)", "train it again <b>")
    page = Page(Forget(pandas.DataFrame([row], columns=COLUMNS), ["old v1: its rows are gone"]))
    assert NOT_DONE in repr(page)
    assert "not looked through: old v1" in page._repr_html_()
    assert "<b>" not in page._repr_html_().replace("train it again &lt;b&gt;", "")


def test_nothing_is_said_plainly() -> None:
    page = Page(Forget(pandas.DataFrame([], columns=COLUMNS), []))
    assert repr(page) == "Nothing was found in the rows, questions, votes and indexes of the store."
